"""A bare aiohttp handler: reads a body, answers with as many bytes as an allocation has. What a
generator gets from it is the most that it can measure.

Run as a process: `python -m bench.bare PORT [CERTIFICATE KEY CLIENT-CA]`.
"""

from __future__ import annotations

import ssl
import sys

from aiohttp import web

ANSWER = b"{" + b" " * 400 + b"}"


async def handle(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=ANSWER, headers={"Content-Type": "application/json"})


def main() -> None:
    port, *files = sys.argv[1:]
    app = web.Application()
    app.router.add_post("/{anything:.*}", handle)
    tls = None
    if files:
        certificate, key, authority = files
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
        tls.load_cert_chain(certificate, key)
        tls.verify_mode = ssl.CERT_REQUIRED
    web.run_app(app, host="127.0.0.1", port=int(port), ssl_context=tls, print=None, access_log=None)


if __name__ == "__main__":
    main()
