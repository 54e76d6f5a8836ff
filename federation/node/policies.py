"""The node's IPsec policies for its federations: what to change in the kernel, and doing it.

Ours are known by their priority, which lies in a band of its own. Inside the band it says what
counts first: what names a port, then what may pass in clear, then tunnels, then what is blocked;
of one kind the longer prefixes. Nobody else's policy is replaced or deleted: where one has the
identity of one of ours (direction, selector and mark), the kernel refuses ours, which is told.

Changes go in an order that never lets clear text out: blocks are added before anything else,
what is new before what is old is deleted, blocks are deleted last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from federation.desired import Action
from federation.desired import Policy as Wanted
from hostnet.netlink import Net
from hostnet.xfrm import Change, Direction, Policy, Template, change_policies, list_policies

PRIORITIES: Final = range(0x4E530000, 0x4E540000)
"""Ours; the number is also how the kernel lists them (`ip xfrm policy`)."""

_PORT_RANK, _CLEAR_RANK, _TUNNEL_RANK, _BLOCK_RANK = 0x1000, 0x2000, 0x3000, 0xF000
_DIRECTIONS: Final[dict[Action, Direction]] = {
    "block": "out",
    "bypass": "out",
    "out": "out",
    "in": "in",
    "fwd": "fwd",
}
_LONGEST: Final = 2 * 128


@dataclass(frozen=True, slots=True)
class Result:
    """`done`: what was changed, in words, by kind; `faults`: what could not be, and why."""

    done: tuple[str, ...]
    faults: tuple[str, ...]


def for_kernel(wanted: Wanted) -> Policy:
    """The policy as the kernel has it. Raises ValueError: tunnel without its ends, mixed families,
    a mark that its mask does not have."""
    template = None
    if wanted.action in ("out", "in", "fwd"):
        target = ip_address(wanted.remote if wanted.action == "out" else wanted.local)
        source = ip_address(wanted.local) if wanted.action == "out" else _anyone(target.version)
        template = Template(source, target, wanted.reqid, wanted.optional)
    if wanted.source.version != wanted.destination.version:
        raise ValueError(f"{wanted.source} and {wanted.destination} are of different families")
    if wanted.mark & ~wanted.mask:
        raise ValueError(f"the mark {wanted.mark:#x} has bits that the mask {wanted.mask:#x} lacks")
    return Policy(
        _DIRECTIONS[wanted.action],
        wanted.source,
        wanted.destination,
        _priority(wanted),
        block=wanted.action == "block",
        template=template,
        protocol=wanted.protocol,
        port=wanted.port,
        mark=wanted.mark,
        mask=wanted.mask,
    )


def changes(wanted: Iterable[Policy], present: Iterable[Policy]) -> list[Change]:
    """What brings ours among `present` to `wanted`, in an order that leaves no gap."""
    want = {policy.identity: policy for policy in wanted}
    ours = {policy.identity: policy for policy in present if policy.priority in PRIORITIES}
    puts = [
        Change("replace" if identity in ours else "add", policy)
        for identity, policy in want.items()
        if ours.get(identity) != policy
    ]
    gone = [Change("delete", policy) for identity, policy in ours.items() if identity not in want]
    # A block that becomes something else is no block any more: it goes with the others.
    puts.sort(key=lambda change: not change.policy.block)
    gone.sort(key=lambda change: change.policy.block)
    return puts + gone


def reconcile(net: Net, wanted: Iterable[Wanted]) -> Result:
    """Brings the kernel to `wanted`, in the namespace of the job. Raises KernelError where the
    policies cannot be read or changed at all."""
    return _brought(net, wanted, _VERBS)


def add(net: Net, wanted: Iterable[Wanted]) -> Result:
    """The same, but that only what is missing is added: all that is there stays as it is."""
    return _brought(net, wanted, ("add",))


def _brought(net: Net, wanted: Iterable[Wanted], verbs: Collection[str]) -> Result:
    faults, meant = [], []
    for policy in wanted:
        try:
            meant.append(for_kernel(policy))
        except ValueError as error:
            faults.append(f"the policy {policy} is left out: {error}")
    todo = [change for change in changes(meant, list_policies(net)) if change.verb in verbs]
    refused = change_policies(net, todo)
    faults += [
        f"{error}; another program's policy may have the same selector: see ip xfrm policy"
        for _, error in refused
    ]
    failed = {id(change) for change, _ in refused}
    done = [change for change in todo if id(change) not in failed]
    counts = {verb: sum(change.verb == verb for change in done) for verb in _VERBS}
    words = tuple(
        f"{_VERBS[verb]} {count} IPsec policies" for verb, count in counts.items() if count
    )
    return Result(words, tuple(faults))


_VERBS: Final = {"add": "added", "replace": "replaced", "delete": "deleted"}


def _priority(wanted: Wanted) -> int:
    if wanted.port:
        rank = _PORT_RANK
    elif wanted.action == "block":
        rank = _BLOCK_RANK
    else:
        clear = wanted.optional or wanted.action == "bypass"
        rank = _CLEAR_RANK if clear else _TUNNEL_RANK
    length = wanted.source.prefixlen + wanted.destination.prefixlen
    return PRIORITIES.start + rank + _LONGEST - length


def _anyone(version: int) -> IPv4Address | IPv6Address:
    return IPv4Address(0) if version == 4 else IPv6Address(0)
