"""A server with TLS on loopback, over a double of the service, and a question to it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import cast

from ipam_server.api import Backend, make_application
from ipam_server.directory import Directory
from netspace import messages as m
from netspace.callers import Caller, current
from netspace.certificates import Certificates
from netspace.endpoints import Endpoint
from netspace.http_client import HttpClient
from netspace.http_server import HttpServer, Limits
from netspace.problems import Problem
from netspace.tls import Tls
from tests.api_double import Double

STATUS = m.ServerStatus(name="s1", endpoint="", version="1", clusters=[])


class Served:
    """A server that listens with TLS, over a double of the service."""

    def __init__(self, port: int, certificates: Certificates, backend: Backend) -> None:
        self.port = port
        self.certificates = certificates
        self.backend = backend
        self.callers: list[Caller] = []

    def url(self, host: str = "127.0.0.1") -> str:
        return f"https://{host}:{self.port}"

    async def metrics(self) -> str:
        return (await self.backend.metrics.exposition(None)).decode()


@contextlib.asynccontextmanager
async def serving(tls: Tls, limits: Limits | None = None) -> AsyncIterator[Served]:
    limits = limits or Limits(arrival=2)
    backend = Backend()
    certificates = Certificates(tls, backend.metrics.certificate_expires)
    served = Served(free_port(), certificates, backend)

    async def clusters() -> list[m.Cluster]:
        served.callers.append(current())
        return []

    double = Double({"own_status": STATUS, "clusters": clusters, "networks": []})
    backend.directory = cast(Directory, double)
    server = HttpServer(
        make_application(backend, limits), limits, certificates.renewed, backend.metrics.cut
    )
    await server.listen(Endpoint.parse(served.url()))
    try:
        yield served
    finally:
        await server.stop()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def ask(
    url: str,
    tls: Tls,
    target: str = "/healthz",
    method: str = "GET",
    headers: list[tuple[str, str]] | None = None,
) -> str:
    """`ok`, or the problem: code, then its words."""
    client = HttpClient([url], 5, tls)
    try:
        await client.request(method, target, headers=headers or [])
    except Problem as problem:
        return f"{problem.code}: {problem}"
    finally:
        await client.close()
    return "ok"
