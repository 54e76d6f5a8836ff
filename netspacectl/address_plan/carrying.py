"""Carries the steps out, one request each, and stops at the first that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from netspace.messages import ChangeNetwork, ChangePool, Network, Pool, ResizePool
from netspace.problems import Problem
from netspacectl.address_plan.difference import Step, Thing

if TYPE_CHECKING:
    from ipam_server.client import Client


async def carry_out(client: Client, steps: Sequence[Step], tell: Callable[[Step], None]) -> None:
    """Raises the `Problem` of the step that failed; `tell` is called after each that did not.

    A thing that was changed since it was read is not changed again: every request names the
    revision that was read, or that our own last step brought about.
    """
    revisions: dict[Thing, int] = {}
    for step in steps:
        seen = revisions.get(step.thing, step.revision)
        answer = await _ask(client, step, seen)
        if isinstance(answer, (Network, Pool)):
            revisions[step.thing] = answer.revision
        tell(step)


async def _ask(client: Client, step: Step, seen: int | None) -> Any:
    _, cluster, name = step.thing
    request = cast(Any, step.request)
    if isinstance(request, (ChangeNetwork, ChangePool, ResizePool)):
        request = msgspec.structs.replace(request, revision=seen)
    match step.action, step.thing.kind:
        case "create", "fabric":
            return await client.create_fabric(request)
        case "create", "cluster":
            return await client.create_cluster(request)
        case "create", "network":
            return await client.create_network(cluster, request)
        case "change", "network":
            return await client.change_network(cluster, name, request)
        case "delete", "network":
            _check(step.thing, await client.network(cluster, name), seen)
            return await client.delete_network(cluster, name)
        case "create", "pool":
            return await client.create_pool(cluster, request)
        case "change", "pool":
            return await client.change_pool(cluster, name, request)
        case "grow", "pool":
            return await client.grow_pool(cluster, name, request)
        case "shrink", "pool":
            return await client.shrink_pool(cluster, name, request)
        case "delete", "pool":
            _check(step.thing, await client.pool(cluster, name), seen)
            return await client.delete_pool(cluster, name)
    raise AssertionError(f"no request for {step}")


def _check(thing: Thing, known: Network | Pool, seen: int | None) -> None:
    if known.revision != seen:
        raise Problem("changed", f"{thing} was changed since it was read", do="apply again")
