"""Uses libeverpost through ctypes alone: no header of ours, no helper.   host.py LIBRARY SPOOL-FOLDER HOST:PORT"""
import ctypes as c
import json
import select
import sys

library, folder, to = sys.argv[1:4]
ep = c.CDLL(library)
P = c.c_void_p
ep.everpost_version.restype = c.c_char_p
for name in ("everpost_error_text", "everpost_error_name", "everpost_event_text", "everpost_answer_endpoint"):
    getattr(ep, name).restype = c.c_char_p
    getattr(ep, name).argtypes = [P]
ep.everpost_answer_bytes.restype = P
ep.everpost_answer_bytes.argtypes = [P, c.POINTER(c.c_size_t)]
ep.everpost_event_id.restype = c.c_uint64
ep.everpost_event_id.argtypes = ep.everpost_event_kind.argtypes = ep.everpost_event_free.argtypes = [P]
ep.everpost_event_fd.argtypes = ep.everpost_answer_free.argtypes = ep.everpost_config_free.argtypes = ep.everpost_string_free.argtypes = [P]


def check(code, error):
    assert code == 0, (code, ep.everpost_error_name(error), ep.everpost_error_text(error))


error, config, client = P(), P(), P()
assert ep.everpost_config_new(c.byref(config)) == 0
toml = f"""data_dir = '{folder}'
[[destination]]
name = 'ris'
protocol = 'mllp'
[[destination.endpoint]]
name = 'a'
address = '{to}'
"""
check(ep.everpost_config_load_string(config, toml.encode(), c.byref(error)), error)
check(ep.everpost_open(config, c.byref(client), c.byref(error)), error)
ep.everpost_config_free(config)
message = b"MSH|^~\\&|PY|A|R|B|20260101||ADT^A08|PY-1|P|2.5\r"
number = c.c_uint64()
check(ep.everpost_submit_hl7(client, b"ris", message, c.c_size_t(len(message)), c.byref(number), c.byref(error)), error)
assert number.value > 0
descriptor = ep.everpost_event_fd(client)
done = False
while not done:
    assert select.select([descriptor], [], [], 30)[0], "no event in time"
    event = P()
    assert ep.everpost_poll(client, 0, c.byref(event)) == 0
    if event:
        done = ep.everpost_event_id(event) == number.value and ep.everpost_event_kind(event) == 1
        ep.everpost_event_free(event)
answer, size = P(), c.c_size_t()
message = message.replace(b"PY-1", b"PY-2")
check(ep.everpost_send_hl7(client, b"ris", message, c.c_size_t(len(message)), 30000, c.byref(answer), c.byref(error)), error)
data = ep.everpost_answer_bytes(answer, c.byref(size))
assert b"MSA|AA|PY-2" in c.string_at(data, size.value)
ep.everpost_answer_free(answer)
text = P()
assert ep.everpost_status_json(client, c.byref(text)) == 0
assert json.loads(c.string_at(text))["destinations"][0]["name"] == "ris"
ep.everpost_string_free(text)
assert ep.everpost_submit_hl7(client, b"nobody", message, c.c_size_t(len(message)), None, c.byref(error)) == 7
assert b"nobody" not in ep.everpost_error_text(error) and b"ris" in ep.everpost_error_text(error)
ep.everpost_error_free.argtypes = [P]
ep.everpost_error_free(error)
left = c.c_uint64(9)
assert ep.everpost_close(client, 5000, c.byref(left)) == 0 and left.value == 0
assert ep.everpost_close(client, 0, None) == 15, "a second close is told"
print("all good", ep.everpost_version().decode())
