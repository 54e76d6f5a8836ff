"""The HTTP layer under test: its application on a Unix socket, over a double of the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any, cast

import h11

from ipam_server.api import Backend, make_application
from ipam_server.batching import Room
from ipam_server.directory import Directory
from netspace import messages as m
from netspace.endpoints import Endpoint
from netspace.http_server import HttpServer, Limits

NETWORK_VIEW = m.NetworkView(
    name="blue",
    uid="2b1f",
    parent="bond0",
    vlan=910,
    ipv4="10.9.0.0/24",
    ipv6="fd00:9::/64",
    gateway4="10.9.0.1",
    gateway6=None,
    mapping="offset",
    mtu=0,
)
ALLOCATION = m.Allocation(
    cluster="east",
    pool="tenant-a",
    slot="5",
    generation=7,
    ipv4="10.9.0.5",
    ipv6="fd00:9::5",
    network=NETWORK_VIEW,
    how="never",
)
CLAIM = "0123456789abcdef0123456789abcdef"
ATTACHMENT = m.AttachmentId(container="c0ffee", ifname="eth0")
ALLOCATE = m.AllocateRequest(attachment=ATTACHMENT, claim=CLAIM, node="node-1")
RELEASE = m.ReleaseRequest(attachment=ATTACHMENT, claim=CLAIM, node="node-1")
RELEASED = m.Released(released=True, why="released")


@dataclass
class Double:
    """Stands for Directory and ClusterService: notes each call, answers with what `answers` has
    under the method's name: a value, an exception, or a function to await."""

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    services: tuple[Any, ...] = ()
    server: str = "s1"
    room: Room = field(default_factory=lambda: Room(10_000))

    @property
    def peers(self) -> Any:
        return self

    async def lead(
        self, service: Any, here: Callable[[], Awaitable[Any]], there: Any, *, repeat: bool
    ) -> Any:
        return await here()

    def own_status(self) -> Any:
        self.calls.append(("own_status",))
        return self.answers["own_status"]

    def cluster(self, name: str) -> Any:
        self.calls.append(("cluster", name))
        if isinstance(refusal := self.answers.get("cluster"), Exception):
            raise refusal
        return self

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("__"):
            raise AttributeError(name)

        async def call(*args: Any) -> Any:
            self.calls.append((name, *args))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return await answer() if callable(answer) else answer

        return call


@dataclass
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The problem's code; the answer must be one in all its parts."""
        document = self.json
        assert self.headers["Content-Type"] == "application/problem+json"
        assert document["status"] == self.status
        assert document["type"] == f"urn:netspace:problem:{document['code']}"
        assert document["detail"]
        return str(document["code"])


@dataclass
class Api:
    """A running application: `ask` it, or write to its `socket`."""

    socket: Path
    backend: Backend
    double: Double
    server: HttpServer

    async def ask(
        self,
        method: str,
        path: str,
        data: bytes | list[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request over a connection of its own; `data` in several parts is sent in chunks."""
        fields = [("Host", "localhost"), *(headers or {}).items()]
        if isinstance(data, list):
            fields.append(("Transfer-Encoding", "chunked"))
        elif data is not None:
            fields.append(("Content-Length", str(len(data))))
        parts = data if isinstance(data, list) else [data] if data else []
        ours = h11.Connection(h11.CLIENT)
        request = h11.Request(method=method, target=path, headers=fields)
        events = [request, *(h11.Data(data=part) for part in parts), h11.EndOfMessage()]
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            with contextlib.suppress(ConnectionError):
                for event in events:
                    writer.write(ours.send(event) or b"")
                await writer.drain()
            return await _answer(ours, reader)
        finally:
            writer.close()


async def _answer(ours: h11.Connection, reader: asyncio.StreamReader) -> Answer:
    status, headers, body = 0, Message(), b""
    while True:
        event = ours.next_event()
        match event:
            case h11.NEED_DATA:
                ours.receive_data(await reader.read(65536))
            case h11.Response():
                status = event.status_code
                for name, value in event.headers:
                    headers[name.decode()] = value.decode()
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                return Answer(status, headers, body)


@contextlib.asynccontextmanager
async def serving(
    folder: Path, answers: dict[str, Any] | None = None, limits: Limits | None = None
) -> AsyncIterator[Api]:
    limits = limits or Limits()
    double = Double(answers or {})
    backend = Backend()
    backend.directory = cast(Directory, double)
    server = HttpServer(make_application(backend, limits), limits)
    socket = folder / "api.sock"
    await server.listen(Endpoint.parse(f"unix://{socket}"))
    try:
        yield Api(socket, backend, double, server)
    finally:
        await server.stop()
