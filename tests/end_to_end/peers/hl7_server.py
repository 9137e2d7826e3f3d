"""A python-hl7 or hl7apy server that answers AA and writes "MSH-10 SHA-256" of every message to a log, one line each.

usage: hl7_server.py python-hl7|hl7apy PORT LOG
Rules: the library does framing, parsing and the acknowledgement; the digest is of the bytes that came. hl7apy takes one message per connection and reads
byte by byte: send it small messages.
"""

import asyncio
import hashlib
import sys

# Any byte is a character of ISO 8859-1, so text in it is the bytes that came.
BYTES = "iso-8859-1"


def control_id(content: bytes) -> str:
    fields = content.split(b"\r", 1)[0].split(content[3:4])
    return fields[9].decode(BYTES)


class Log:
    def __init__(self, path: str):
        self.file = open(path, "a", encoding="ascii")

    def add(self, content: bytes) -> None:
        self.file.write(f"{control_id(content)} {hashlib.sha256(content).hexdigest()}\n")
        self.file.flush()


def python_hl7(port: int, log: Log) -> None:
    import hl7
    from hl7.mllp import start_hl7_server

    async def converse(reader, writer):
        try:
            while True:
                content = await reader.readblock()
                log.add(content)
                # The header is enough for an acknowledgement; parsing 20 MB with this library takes minutes.
                message = hl7.parse(content.split(b"\r", 1)[0].decode(BYTES) + "\r")
                writer.writemessage(message.create_ack("AA"))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def serve():
        server = await start_hl7_server(converse, "127.0.0.1", port, encoding=BYTES, limit=64 << 20)
        async with server:
            await server.serve_forever()

    asyncio.run(serve())


def hl7apy(port: int, log: Log) -> None:
    from hl7apy.core import Message
    from hl7apy.mllp import AbstractErrorHandler, MLLPRequestHandler, MLLPServer
    from hl7apy.parser import parse_message

    class Bytes(MLLPRequestHandler):
        encoding = BYTES

    class Take(AbstractErrorHandler):
        """hl7apy routes by message type; what it does not know goes to its error handler, which here takes everything."""

        def reply(self):
            content = self.incoming_message.encode(BYTES)
            log.add(content)
            header = parse_message(content.split(b"\r", 1)[0].decode(BYTES) + "\r", find_groups=False)
            ack = Message("ACK", version="2.5")
            ack.msh.msh_10 = "A" + header.msh.msh_10.value
            ack.msh.msh_9 = "ACK"
            ack.msa.msa_1 = "AA"
            ack.msa.msa_2 = header.msh.msh_10.value
            return ack.to_mllp()

    server = MLLPServer("127.0.0.1", port, {"ERR": (Take,)}, timeout=60, request_handler_class=Bytes)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    kind, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    {"python-hl7": python_hl7, "hl7apy": hl7apy}[kind](port, Log(path))
