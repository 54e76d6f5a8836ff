"""Kubernetes' API as far as a node asks it: scripted answers on loopback, with TLS or without."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11

from cni_plugins.node_config import KubernetesSection

Reply = tuple[int, Any] | None
"""Status and body; None: the connection is closed instead."""


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class KubeDouble:
    """Answers each request by `answer`; `port` is where it listens, `asked` what came."""

    answer: Callable[[Asked], Reply]
    port: int = 0
    connections: int = 0
    asked: list[Asked] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        http = h11.Connection(h11.SERVER)
        with contextlib.suppress(ConnectionError):
            while await self._one(http, reader, writer):
                http.start_next_cycle()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _one(
        self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head: h11.Request | None = None
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.ConnectionClosed):
                return False
            elif isinstance(event, h11.EndOfMessage):
                break
        assert head is not None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        asked = Asked(
            head.method.decode(), head.target.decode(), headers, json.loads(body or b"null")
        )
        self.asked.append(asked)
        reply = self.answer(asked)
        if reply is None:
            return False
        data = json.dumps(reply[1]).encode()
        fields = [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
        sent = http.send(h11.Response(status_code=reply[0], headers=fields)) or b""
        sent += http.send(h11.Data(data)) or b""
        sent += http.send(h11.EndOfMessage()) or b""
        writer.write(sent)
        await writer.drain()
        return True

    async def hang_up(self) -> None:
        """Closes all connections, as an API server does that restarts."""
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        self.writers.clear()


@contextlib.asynccontextmanager
async def kube_double(
    answer: Callable[[Asked], Reply], tls: ssl.SSLContext | None = None
) -> AsyncIterator[KubeDouble]:
    double = KubeDouble(answer)
    server = await asyncio.start_server(double.serve, "127.0.0.1", 0, ssl=tls)
    double.port = server.sockets[0].getsockname()[1]
    try:
        yield double
    finally:
        server.close()
        await double.hang_up()
        await asyncio.gather(*double.tasks)


def kubeconfig(path: Path, server: str, *, ca: Path | None = None, **user: str) -> Path:
    """A kubeconfig for this server as this user."""
    cluster = {"server": server, **({"certificate-authority": str(ca)} if ca else {})}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "preferences": {},
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return path


def section(path: Path, **changes: Any) -> KubernetesSection:
    return KubernetesSection(kubeconfig=str(path), **changes)


def status(code: int, message: str) -> Reply:
    return code, {"kind": "Status", "apiVersion": "v1", "message": message, "code": code}
