"""The audit's own process: reads a cluster's keys from etcd, checks them, and says what it found.

It is one of its own since a million addresses take it a minute of a processor and several hundred
MiB: the server goes on as if there were none, and the memory is given back. It gets an `Order` on
its standard input and answers on its standard output with pickles of its own making, each behind
its length: how many keys it has read, after every page, and at the end what it `Found`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ipam_server import keys as key_names
from ipam_server.flaws import Flaw
from ipam_server.inspection import Inspector
from ipam_server.keys import Keys
from statestore import KeyValue, Store, StoreError, Tls

PAGE: Final = 10_000
"""Keys that etcd is asked for at once: for every answer it counts all that is left."""

LISTED: Final = 1000
"""Findings that are told, and of those that can be mended as many."""

NICE: Final = 10
"""How much this process gives way to the server."""

OPTION: Final = "--audit"
"""With which netspace-server is this process and no server."""


@dataclass(frozen=True, slots=True)
class Order:
    """Which cluster is to be looked at, and where etcd is; `timeout`: seconds for one page."""

    cluster: str
    endpoints: tuple[str, ...]
    tls: Tls | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Found:
    """`count`: of all flaws, of which the first are told."""

    revision: int
    keys: int
    count: int
    flaws: list[Flaw]
    mendable: list[Flaw]


async def look(order: Order, told: Callable[[int], None]) -> Found:
    """Checks all keys at one revision. Raises `StoreError`."""
    fabrics: dict[str, KeyValue] = {}
    inspector = Inspector(order.cluster, fabrics)
    revision = 0
    async with Store(order.endpoints, order.tls, order.timeout) as store:
        prefix = Keys(order.cluster).prefix
        async with contextlib.aclosing(store.pages(prefix, size=PAGE)) as pages:
            async for page in pages:
                if not revision:
                    revision = page.revision
                    await _read_fabrics(store, revision, fabrics)
                inspector.add(page.items)
                told(inspector.count)
    flaws = inspector.flaws()
    mendable = [each for each in flaws if each.change is not None]
    return Found(revision, inspector.count, len(flaws), flaws[:LISTED], mendable[:LISTED])


async def _read_fabrics(store: Store, revision: int, into: dict[str, KeyValue]) -> None:
    async with contextlib.aclosing(store.pages(key_names.FABRICS, revision=revision)) as pages:
        async for page in pages:
            for stored in page.items:
                name = stored.key[len(key_names.FABRICS) :].decode(errors="replace")
                into[name] = stored


def own_program() -> list[str]:
    """The command that starts netspace-server: a frozen one is its own interpreter."""
    if getattr(sys, "frozen", False):
        return [sys.executable]
    return [sys.executable, "-m", "ipam_server.main"]


class AuditFailed(Exception):
    """The audit could not be made; says why."""


async def audit(order: Order, told: Callable[[int], None]) -> Found:
    """What a process of its own finds; it ends with this coroutine. Raises `AuditFailed`."""
    process = await asyncio.create_subprocess_exec(
        *own_program(), OPTION,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(pickle.dumps(order))
        process.stdin.close()
        while True:
            size = int.from_bytes(await process.stdout.readexactly(4), "big")
            answer: int | str | Found = pickle.loads(  # from our own program
                await process.stdout.readexactly(size)
            )
            if isinstance(answer, Found):
                return answer
            if isinstance(answer, str):
                raise AuditFailed(answer)
            told(answer)
    except (asyncio.IncompleteReadError, ConnectionError):
        raise AuditFailed("the audit's process ended before it was done; see the log") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def say(what: int | str | Found) -> None:
    """One answer: a number of keys, why it failed, or what was found."""
    data = pickle.dumps(what)
    sys.stdout.buffer.write(len(data).to_bytes(4, "big") + data)
    sys.stdout.buffer.flush()


def main() -> None:
    os.nice(NICE)
    order: Order = pickle.load(sys.stdin.buffer)  # from the server that started it
    try:
        say(asyncio.run(look(order, say)))
    except StoreError as error:
        say(str(error))
    except BrokenPipeError:
        # The server has gone; nobody wants to know any more.
        os._exit(1)
