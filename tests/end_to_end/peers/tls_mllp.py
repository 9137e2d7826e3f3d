"""An MLLP peer over TLS from Python's standard library (OpenSSL), as client or as server.

usage: tls_mllp.py send PORT FOLDER CA [CERT KEY]     sends the files of a folder, prints "MSA-1 MSA-2" for each, then waits for a line on a file
       tls_mllp.py serve PORT LOG CERT KEY [CA]       answers AA, logs "MSH-10 SHA-256"; with CA, clients must show a certificate of it
Rules: TLS 1.2 or later. Ends with 1 and the reason when the handshake fails.
"""

import hashlib
import pathlib
import socket
import ssl
import sys
import threading


def read_block(stream) -> bytes:
    kept = b""
    while not kept.endswith(b"\x1c\r"):
        part = stream.recv(1 << 16)
        if not part:
            return b""
        kept += part
    return kept[1:-2]


def send(port: int, folder: str, ca: str, cert: str = "", key: str = "") -> None:
    context = ssl.create_default_context(cafile=ca)
    if cert:
        context.load_cert_chain(cert, key)
    with socket.create_connection(("127.0.0.1", port), 30) as plain, context.wrap_socket(plain, server_hostname="localhost") as stream:
        for file in sorted(pathlib.Path(folder).iterdir()):
            stream.sendall(b"\x0b" + file.read_bytes() + b"\x1c\r")
            answer = read_block(stream)
            if not answer:
                sys.exit("closed without an answer")
            msa = next(s for s in answer.split(b"\r") if s.startswith(b"MSA")).split(b"|")
            print(msa[1].decode(), msa[2].decode(), flush=True)


def serve(port: int, log: str, cert: str, key: str, ca: str = "") -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if ca:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    lock = threading.Lock()

    def converse(plain) -> None:
        try:
            with context.wrap_socket(plain, server_side=True) as stream:
                while content := read_block(stream):
                    header = content.split(b"\r", 1)[0].split(b"|")
                    with lock, open(log, "a", encoding="latin-1") as file:
                        file.write(f"{header[9].decode('latin-1')} {hashlib.sha256(content).hexdigest()}\n")
                    stream.sendall(b"\x0bMSH|^~\\&|||||||ACK|A|P|2.5\rMSA|AA|" + header[9] + b"\r\x1c\r")
        except OSError as error:
            print("connection:", error, flush=True)

    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    if sys.argv[1] == "send":
        try:
            send(int(sys.argv[2]), *sys.argv[3:])
        except OSError as error:
            sys.exit(f"{type(error).__name__}: {error}")
    else:
        serve(int(sys.argv[2]), *sys.argv[3:])
