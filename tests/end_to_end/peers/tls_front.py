"""TLS before plain peers, from Python's standard library (OpenSSL): takes TLS connections and passes their bytes on in plain.

usage: tls_front.py CERT KEY PORT:BEHIND [PORT:BEHIND ...]
Rules: TLS 1.2 or later; prints "ready" when all ports are open.
"""

import socket
import ssl
import sys
import threading


def pump(source, sink) -> None:
    try:
        while part := source.recv(1 << 16):
            sink.sendall(part)
    except OSError:
        pass
    for stream in (source, sink):
        try:
            stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(context, listener, behind: int) -> None:
    def converse(plain) -> None:
        try:
            client = context.wrap_socket(plain, server_side=True)
        except OSError as error:
            print("connection:", error, flush=True)
            return
        server = socket.create_connection(("127.0.0.1", behind))
        for stream in (plain, client, server):
            if stream.fileno() >= 0:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=pump, args=(client, server), daemon=True).start()
        threading.Thread(target=pump, args=(server, client), daemon=True).start()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(connection,), daemon=True).start()


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
threads = []
for pair in sys.argv[3:]:
    port, behind = map(int, pair.split(":"))
    threads.append(threading.Thread(target=serve, args=(context, socket.create_server(("127.0.0.1", port)), behind)))
for thread in threads:
    thread.start()
print("ready", flush=True)
