"""A plain MLLP receiver from the standard library alone, to be frozen, killed and cut off: answers AA, logs "MSH-10 SHA-256" of each message.

usage: sink.py ADDRESS PORT LOG
Rules: a message is in the log before it is answered.
"""

import hashlib
import socket
import sys
import threading

address, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
log = open(path, "a", encoding="latin-1")
lock = threading.Lock()


def converse(stream: socket.socket) -> None:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    kept = b""
    with stream:
        while True:
            try:
                part = stream.recv(1 << 16)
            except OSError:
                return
            if not part:
                return
            kept += part
            while (end := kept.find(b"\x1c\r")) >= 0:
                content = kept[kept.find(b"\x0b") + 1 : end]
                kept = kept[end + 2 :]
                separator = content[3:4]
                fields = content.split(b"\r", 1)[0].split(separator)
                with lock:
                    log.write(f"{fields[9].decode('latin-1')} {hashlib.sha256(content).hexdigest()}\n")
                    log.flush()
                header = separator.join([b"MSH", fields[1], b"", b"", b"", b"", b"", b"", b"ACK", b"A", b"P", b"2.5"])
                try:
                    stream.sendall(b"\x0b" + header + b"\rMSA" + separator + b"AA" + separator + fields[9] + b"\r\x1c\r")
                except OSError:
                    return


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((address, port))
listener.listen(128)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=converse, args=(connection,), daemon=True).start()
