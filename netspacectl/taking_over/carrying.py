"""The server asked about what was found, and what was planned carried out.

Every row is tried whatever becomes of the others; running the same command again goes on with what
is left, since what is there is found to be there.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from netspace.batches import MAX_ITEMS
from netspace.messages import AddressEntry, OperatorRelease
from netspace.problems import Problem
from netspacectl.taking_over.found import Found, KnownPod, Pods
from netspacectl.taking_over.plan import NOTE, Known, Row, attaching, note_of, reserving

if TYPE_CHECKING:
    from ipam_server.client import Client

AT_ONCE: Final = 16
"""Questions to the server at once."""
PAGE: Final = 500


async def ask(client: Client, cluster: str, found: Iterable[Found], network: str | None) -> Known:
    """The server's word on everything that lives; `network` where several have an address."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def entry(address: str) -> AddressEntry | Problem:
        async with slots:
            try:
                return await client.address(cluster, address, network)
            except Problem as problem:
                if problem.again:
                    raise
                return problem

    addresses = sorted({each.addresses[0] for each in found if not each.gone})
    entries = await asyncio.gather(*map(entry, addresses))
    return Known(
        entries=dict(zip(addresses, entries, strict=True)),
        networks={each.name: each for each in await client.networks(cluster)},
        pools={each.name: each for each in await client.pools(cluster)},
    )


async def carry_out(client: Client, cluster: str, rows: Sequence[Row], known: Known) -> None:
    """Attaches and reserves; what was refused becomes a conflict that says why."""
    attach = [row for row in rows if row.action == "attach"]
    for start in range(0, len(attach), MAX_ITEMS):
        some = attach[start : start + MAX_ITEMS]
        requests = [attaching(row, known, lambda: secrets.token_hex(16)) for row in some]
        answers = await client.allocate_batch(cluster, requests)
        for row, answer in zip(some, answers, strict=True):
            _settle(row, answer if isinstance(answer, Problem) else None)
    for row in rows:
        if row.action == "reserve":
            try:
                await client.reserve(cluster, reserving(row))
            except Problem as problem:
                _settle(row, problem)
            else:
                _settle(row, None)


def _settle(row: Row, problem: Problem | None) -> None:
    row.done = problem is None
    if problem is not None:
        row.action, row.why = "conflict", str(problem)


async def imported(client: Client, cluster: str) -> AsyncIterator[AddressEntry]:
    """Everything that was taken over and is held still."""
    for state in ("used", "reserved"):
        after: str | None = None
        while True:
            page = await client.addresses(cluster, state=state, limit=PAGE, after=after)
            for entry in page.items:
                if (entry.note or "").startswith(f"{NOTE}: "):
                    yield entry
            if (after := page.next) is None:
                break


def gone(entry: AddressEntry, pods: Mapping[str, KnownPod]) -> str | None:
    """Why the pod of an address that was taken over is no more; None where it lives, or where it is
    not known whose it is. `pods` by `by_note`. Pure."""
    note = entry.note or ""
    if "/" not in note:
        return None
    pod = pods.get(note)
    if pod is None:
        return "its pod is gone"
    if pod.over:
        return "its pod has finished"
    if entry.uid and entry.uid != pod.uid:
        return "the pod of this name is another one now"
    return None


def by_note(pods: Pods) -> dict[str, KnownPod]:
    """The pods by the note that would stand at their addresses. Pure."""
    return {note_of(namespace, name): pod for (namespace, name), pod in pods.items()}


async def free(client: Client, cluster: str, entry: AddressEntry) -> None:
    """Ends what `gone` has named. Raises `Problem`."""
    address = entry.ipv4 or entry.ipv6
    assert address is not None
    if entry.state == "reserved":
        await client.unreserve(cluster, address, entry.network)
        return
    assert entry.generation is not None
    await client.operator_release(
        cluster,
        OperatorRelease(network=entry.network, address=address, generation=entry.generation),
    )
