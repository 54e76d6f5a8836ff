"""An API of Kubernetes' that says what the test has written down, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from netspace.endpoints import Endpoint
from netspace.kube_access import Access
from netspace.kube_api import KubeApi


@dataclass(frozen=True)
class Says:
    """An answer. `events` None: the `body` as a whole; else a stream of them, which then ends as
    `end` says: in good order, broken off in mid-word, or not at all."""

    body: Any = None
    status: int = 200
    events: Sequence[Any] | None = None
    end: str = "good"


@dataclass(frozen=True)
class Asked:
    path: str
    query: Mapping[str, str]

    @property
    def watch(self) -> bool:
        return self.query.get("watch") == "true"


@dataclass
class Script:
    """Answers in their order; after the last one every connection stays open without a word."""

    answers: list[Says]
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    @property
    def lists(self) -> list[Asked]:
        return [each for each in self.asked if not each.watch]

    @property
    def watches(self) -> list[Asked]:
        return [each for each in self.asked if each.watch]

    def api(self, timeout: float = 2.0) -> KubeApi:
        url = f"http://127.0.0.1:{self.port}"
        return KubeApi(lambda: Access(endpoint=Endpoint.parse(url)), timeout)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = urlsplit(head.split(b" ")[1].decode())
                self.asked.append(Asked(target.path, dict(parse_qsl(target.query))))
                if not self.answers:
                    await asyncio.Event().wait()
                await self._answer(self.answers.pop(0), writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, says: Says, writer: asyncio.StreamWriter) -> None:
        if says.events is None:
            data = json.dumps(says.body).encode()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (says.status, len(data)))
            writer.write(data)
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in says.events:
            data = event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n"
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        match says.end:
            case "good":
                writer.write(b"0\r\n\r\n")
            case "cut":
                writer.write(b"40\r\nhalf a wo")
                await writer.drain()
                raise ConnectionAbortedError
            case "silence":
                await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def scripted(*answers: Says, port: int = 0) -> AsyncIterator[Script]:
    script = Script(list(answers))
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(script.serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    script.port = server.sockets[0].getsockname()[1]
    try:
        yield script
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def thing(name: str, version: int, **annotations: str) -> dict[str, Any]:
    """A namespace."""
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "annotations": {f"ipam.com/{key}": value for key, value in annotations.items()},
        }
    }


def listed(version: int, *things: Any, following: str = "") -> Says:
    """A page of a list."""
    return Says(
        {"metadata": {"resourceVersion": str(version), "continue": following}, "items": [*things]}
    )


def event(kind: str, found: Any) -> dict[str, Any]:
    return {"type": kind, "object": found}


def failure(status: int) -> dict[str, Any]:
    """A `Status`."""
    return {"kind": "Status", "status": "Failure", "code": status, "message": f"failure {status}"}


async def until(condition: Any, what: str, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
