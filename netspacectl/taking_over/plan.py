"""What is to be done with what was found, held against what the server has. Pure.

An address is held by its attachment where container, interface, node and a pool are known: then
the DEL of that attachment frees it, whichever plugin made it. Otherwise it is reserved, under a
note that names the pod. What contradicts the server's state, or itself, is a conflict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from netspace.messages import (
    AddressEntry,
    AllocateRequest,
    AttachmentId,
    Network,
    Pod,
    Pool,
    Reserve,
    Selection,
)
from netspace.problems import Problem
from netspace.slots import Family
from netspacectl.address_plan.present import slots_of, total_of
from netspacectl.taking_over.found import Found
from netspacectl.text import duration

Action = Literal["attach", "reserve", "there", "left out", "conflict"]
NOTE: Final = "imported"
"""What the note of everything that is taken over begins with."""
MAX_NOTE: Final = 200


class Row(msgspec.Struct, kw_only=True):
    """One interface. `attach`: its attachment shall hold the slot; `reserve`: the slot is kept from
    others; `there`: it is so already; `left out`: its pod is gone; `conflict`: it cannot be had.
    `why` says why it is not attached. `done` once it was carried out."""

    action: Action
    addresses: tuple[str, ...]
    network: str = ""
    pool: str = ""
    namespace: str = ""
    pod: str = ""
    uid: str = ""
    node: str = ""
    container: str = ""
    ifname: str = ""
    why: str = ""
    where: str = ""
    done: bool = False

    @property
    def note(self) -> str:
        """With which it is reserved or attached."""
        if self.pod:
            return note_of(self.namespace, self.pod)
        return f"{NOTE}: {self.container or 'for whom is not known'}"


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the server has: its word on each address that was found, and networks and pools."""

    entries: Mapping[str, AddressEntry | Problem]
    networks: Mapping[str, Network]
    pools: Mapping[str, Pool]


def note_of(namespace: str, pod: str) -> str:
    """The note that stands at a pod's address."""
    return f"{NOTE}: {namespace}/{pod}"[:MAX_NOTE]


def rows(found: Sequence[Found], known: Known) -> list[Row]:
    """What becomes of each, in their order."""
    live = [each for each in found if not each.gone]
    addresses = Counter(address for each in live for address in each.addresses)
    places = Counter(
        (each.container, each.ifname) for each in live if each.container and each.ifname
    )
    made = []
    for each in found:
        row = _row(each, known)
        twice = [address for address in each.addresses if addresses[address] > 1]
        if not each.gone and twice:
            row.action, row.why = "conflict", f"{', '.join(twice)} was found twice"
        elif not each.gone and places[each.container, each.ifname] > 1:
            row.action = "conflict"
            row.why = "its interface has several addresses of one family: an attachment holds one"
        made.append(row)
    _check_slots(made, found, known)
    return made


def _check_slots(made: Sequence[Row], found: Sequence[Found], known: Known) -> None:
    """Two interfaces on one slot, each with another family of it, cannot both have it."""
    wanted: dict[tuple[str, str], list[Row]] = {}
    for row, each in zip(made, found, strict=True):
        slot = _slot(each, known)
        if slot is not None and row.action in ("attach", "reserve", "there"):
            wanted.setdefault(slot, []).append(row)
    for several in wanted.values():
        if len(several) > 1:
            for row in several:
                row.action = "conflict"
                row.why = "IPv4 and IPv6 address of its slot belong to two interfaces"


def _slot(found: Found, known: Known) -> tuple[str, str] | None:
    entry = known.entries.get(found.addresses[0])
    return (entry.network, entry.slot) if isinstance(entry, AddressEntry) else None


def _row(found: Found, known: Known) -> Row:
    row = Row(
        action="conflict",
        addresses=found.addresses,
        namespace=found.namespace,
        pod=found.pod,
        uid=found.uid,
        node=found.node,
        container=found.container,
        ifname=found.ifname,
        where=found.where,
    )
    if found.gone:
        row.action, row.why = "left out", found.gone
        return row
    entry = known.entries[found.addresses[0]]
    if isinstance(entry, Problem):
        row.why = str(entry)
        return row
    row.network, row.pool = entry.network, entry.pool or ""
    other = [text for text in found.addresses if text not in (entry.ipv4, entry.ipv6)]
    if other:
        both = " and ".join(text for text in (entry.ipv4, entry.ipv6) if text)
        row.why = (
            f"{other[0]} is not of its slot, which has {both}: a pod's addresses are one slot's"
        )
        return row
    row.action, row.why = _standing(row, entry) or _unlike(row, entry, known) or ("attach", "")
    if row.action == "attach" and (lacks := _lacks(row)):
        row.action, row.why = "reserve", f"{' and '.join(lacks)} not known"
    return row


def _standing(row: Row, entry: AddressEntry) -> tuple[Action, str] | None:
    """What follows from how the slot stands; None where it is free for the pod."""
    if entry.state == "used":
        if (entry.container, entry.ifname) == (row.container, row.ifname):
            return "there", ""
        who = f"{entry.namespace}/{entry.pod}" if entry.pod else f"container {entry.container}"
        return "conflict", f"it is held by {who} on node {entry.node}"
    if entry.state == "reserved":
        if entry.note == row.note:
            return "there", "it is reserved"
        return "conflict", f"it is reserved ({entry.note})" if entry.note else "it is reserved"
    left = entry.cooldown_left or entry.retention_left
    own = (entry.namespace, entry.pod, entry.ifname) == (row.namespace, row.pod, row.ifname)
    if left and not (own and row.pod):
        return "conflict", f"it was released and rests for {duration(round(left, 1))}"
    return None


def _unlike(row: Row, entry: AddressEntry, known: Known) -> tuple[Action, str] | None:
    """Why the server would refuse it, as far as that can be seen here."""
    network = known.networks[entry.network]
    if int(entry.slot) not in total_of(network):
        return "conflict", f"it is a gateway's, or outside of what network {network.name} gives"
    pool = known.pools.get(row.pool)
    if pool is None:
        return "conflict", f"it lies in no pool of network {network.name}: carve one around it"
    listed = pool.namespaces
    if pool.kind != "default" and "*" not in listed and row.namespace not in listed:
        if row.namespace:
            return "conflict", f"pool {pool.name} does not list namespace {row.namespace}"
        return "reserve", "its namespace is not known"
    return None


def _lacks(row: Row) -> list[str]:
    names = {"container": row.container, "interface": row.ifname, "node": row.node}
    return [name for name, value in names.items() if not value]


def attaching(row: Row, known: Known, new_claim: Callable[[], str]) -> AllocateRequest:
    """The request by which a row's attachment holds its slot."""
    pool, slots = known.pools[row.pool], slots_of(known.networks[row.network])
    application = pool.kind == "application"
    families: tuple[Family, ...] = ()
    if len(row.addresses) == 1 and slots.ipv4 is not None and slots.ipv6 is not None:
        families = ("ipv6",) if ":" in row.addresses[0] else ("ipv4",)
    return AllocateRequest(
        attachment=AttachmentId(container=row.container, ifname=row.ifname),
        claim=new_claim(),
        node=row.node,
        pod=Pod(namespace=row.namespace, name=row.pod, uid=row.uid),
        selection=Selection(
            netspace=None if application else pool.name,
            application=pool.name if application else None,
            ip=row.addresses,
            families=families,
        ),
        note=row.note,
    )


def reserving(row: Row) -> Reserve:
    """The request that keeps a row's slot."""
    return Reserve(network=row.network, address=row.addresses[0], note=row.note)
