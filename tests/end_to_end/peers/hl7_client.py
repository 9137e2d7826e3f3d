"""Sends the messages of a folder with python-hl7 or hl7apy, in the order of their file names, each after the answer to the one before.

usage: hl7_client.py python-hl7|hl7apy PORT FOLDER
Prints "MSA-1 MSA-2" for every answer. Ends with 1 when an answer is missing. hl7apy has no client of its own: it makes the block, a socket sends it.
"""

import pathlib
import socket
import sys

BYTES = "iso-8859-1"


def show(answer: bytes) -> None:
    body = answer.strip(b"\x0b\x1c\r")
    for segment in body.split(b"\r"):
        if segment.startswith(b"MSA"):
            fields = segment.split(body[3:4])
            print(fields[1].decode(), fields[2].decode(BYTES), flush=True)
            return
    sys.exit(f"no MSA in {answer!r}")


def python_hl7(port: int, files: list) -> None:
    from hl7.client import MLLPClient

    with MLLPClient("127.0.0.1", port, encoding=BYTES) as client:
        # No time-out on its socket: send_message calls send() once, and with a time-out that sends a part of a large message only.
        for file in files:
            show(client.send_message(file.read_bytes()))


def hl7apy(port: int, files: list) -> None:
    from hl7apy.parser import parse_message

    with socket.create_connection(("127.0.0.1", port), 60) as stream:
        for file in files:
            content = file.read_bytes()
            header = content.split(b"\r", 1)[0].decode(BYTES) + "\r"
            block = parse_message(header, find_groups=False).to_mllp().encode(BYTES)
            # The library writes the header; the segments after it go as they stand (its model would reorder them).
            body = content.split(b"\r", 1)[1]
            stream.sendall(block[:-2] + body + b"\x1c\r")
            answer = b""
            while not answer.endswith(b"\x1c\r"):
                part = stream.recv(65536)
                if not part:
                    sys.exit("no answer")
                answer += part
            show(answer)


if __name__ == "__main__":
    kind, port, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
    {"python-hl7": python_hl7, "hl7apy": hl7apy}[kind](port, sorted(folder.iterdir()))
