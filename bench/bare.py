"""A server that does nothing: reads a request, answers with as many bytes as an allocation has.
What a generator gets from it is the most that it can measure.

Run as a process: `python -m bench.bare PORT [CERTIFICATE KEY CLIENT-CA]`.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from netspace.http_answers import Answer, start_of
from netspace.http_requests import Reader

START = start_of(200, {"Content-Type": "application/json"})
ANSWER = Answer(200, START, b"{" + b" " * 400 + b"}")


class Bare(asyncio.Protocol):
    """One connection, whose other side waits for each answer."""

    def __init__(self) -> None:
        self._reader = Reader(8190, 2**20)
        self._announced = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._announced = self._announced or self._reader.head() is not None
        if self._announced and self._reader.body() is not None:
            self._announced = False
            self._transport.write(ANSWER.head(last=False) + ANSWER.body)


async def serve(port: int, tls: ssl.SSLContext | None) -> None:
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port, ssl=tls)
    await server.serve_forever()


def main() -> None:
    port, *files = sys.argv[1:]
    tls = None
    if files:
        certificate, key, authority = files
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
        tls.load_cert_chain(certificate, key)
        tls.verify_mode = ssl.CERT_REQUIRED
    asyncio.run(serve(int(port), tls))


if __name__ == "__main__":
    main()
