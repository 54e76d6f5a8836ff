"""Addresses: who has them, who had them, reservations."""

from __future__ import annotations

from typing import Literal

from netspace.messages.terms import Address, Answer, Name, Natural, Note, Request, Revision


class AddressEntry(Answer):
    """A slot that is or was somebody's. `retained`: kept for the pod that had it; `free`: released
    and ready; `never`: given to nobody."""

    network: str
    slot: Natural
    ipv4: str | None
    ipv6: str | None
    state: Literal["used", "reserved", "cooling", "retained", "free", "never"]
    pool: str | None
    generation: int | None = None
    node: str | None = None
    namespace: str | None = None
    pod: str | None = None
    uid: str | None = None
    container: str | None = None
    ifname: str | None = None
    note: str | None = None
    cooldown_left: float | None = None
    retention_left: float | None = None


class Tenancy(Answer):
    """Who held a slot, from `since` to `until` by the servers' wall clocks; None where nobody wrote
    it down, or for who holds it still. A reservation has a `note` and no container."""

    since: str | None
    until: str | None
    namespace: str | None = None
    pod: str | None = None
    uid: str | None = None
    ifname: str | None = None
    node: str | None = None
    container: str | None = None
    note: str | None = None


class AddressHistory(Answer):
    """Who holds a slot and who held it before, the latest first."""

    network: str
    slot: Natural
    ipv4: str | None
    ipv6: str | None
    items: list[Tenancy]


class AddressPage(Answer):
    """`next` is given to the next call as `after`; None on the last page."""

    items: list[AddressEntry]
    next: str | None


class Vmac(Answer):
    """The slot of a node's own interface on a network; addresses without prefix length, None for a
    family that the network has not."""

    network: str
    node: str
    slot: Natural
    generation: int
    ipv4: str | None
    ipv6: str | None


class Reserve(Request):
    """Takes an address out of use for something that is no pod."""

    network: Name
    address: Address
    note: Note = ""


class OperatorRelease(Request):
    """An admin's word that the holder is gone. The generation is the one the admin saw."""

    network: Name
    address: Address
    generation: Revision
