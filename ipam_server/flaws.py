"""What can be wrong with a stored state: every rule under its code, why it matters, how it is
mended; and the transactions that mend.

A mend is safe where it can neither free an address that somebody may use nor forget who holds one:
it follows from what else is stored. Each compares the revisions that it was decided on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ipam_server.changes import Change
from ipam_server.keys import SlotId
from netspace.upkeep import Finding
from statestore import Compare, Delete, Put


class Meaning(NamedTuple):
    """`mend`: what a repair does where it can; `hand`: what a person does where it cannot."""

    why: str
    hand: str
    mend: str = ""


_LOOK: Final = "look at the key with etcdctl, and at who wrote it; restore it from a snapshot"

MEANINGS: Final[dict[str, Meaning]] = {
    "unreadable": Meaning("no server can read the state with this value in it", _LOOK),
    "unknown-key": Meaning(
        "no part of this server reads it; a newer one may", "delete it if nobody knows it"
    ),
    "malformed-key": Meaning(
        "the key does not name what a server would look for under it", "delete it if nobody uses it"
    ),
    "network-missing": Meaning(
        "whoever holds it cannot be found, and the same network made again would give it again",
        "declare the network again with the same subnets, or delete the keys",
        "delete the release: nothing is held in the network and no pool names it",
    ),
    "fabric-member-missing": Meaning(
        "other clusters in the fabric may declare networks with the same addresses",
        "change one of the networks in conflict, or make the fabric",
        "enter the network as it is declared",
    ),
    "fabric-member-stray": Meaning(
        "its addresses stay out of reach for all clusters of the fabric",
        "delete the fabric's entry",
        "take the entry out",
    ),
    "fabric-overlap": Meaning(
        "the same address can be given in two networks of one fabric",
        "delete or shrink one of the networks",
    ),
    "pool-network": Meaning("no pod can be served from it", "delete the pool's key"),
    "pool-outside": Meaning(
        "it has addresses that its network does not", "shrink the pool by these addresses"
    ),
    "pool-overlap": Meaning(
        "who may have an address depends on which pool is asked", "shrink one of the pools"
    ),
    "pool-nesting": Meaning(
        "the nested pool's addresses count in two pools or in none",
        "delete the nested pool and make it again",
    ),
    "pool-namespaces": Meaning(
        "a namespace reaches addresses that the outer pool keeps from it",
        "change the namespaces of one of the pools",
    ),
    "default-pools": Meaning(
        "which one a pod gets that chooses nothing is left to chance", "delete all but one"
    ),
    "slot-outside": Meaning(
        "it is a gateway's, excluded or none of the network's: traffic will not arrive",
        "release it with netspacectl address release",
    ),
    "slot-pool": Meaning(
        "the pool's use and its namespaces' isolation are not what they seem",
        "release the address once its pod is gone, or resize the pools so that it fits",
    ),
    "holder-form": Meaning(
        "nobody can prove to be the holder, so nothing but an admin's word releases it",
        "release it with netspacectl address release once its pod is gone",
    ),
    "vmac-twice": Meaning(
        "the node uses one of them, and nobody gets the other",
        "netspacectl node delete frees both once the node is gone; until then nothing is lost but"
        " an address",
    ),
    "claim-buried": Meaning(
        "the claim was released: its node believes that it holds nothing",
        "release the address once its pod is gone",
    ),
    "attachment-twice": Meaning(
        "a repeated ADD gets either, and DEL releases one of them",
        "release the one that the pod's interface does not have",
    ),
    "attachment-missing": Meaning(
        "another allocation of the same attachment would not be refused",
        "release the address once its pod is gone",
        "write the attachment's key",
    ),
    "attachment-dangling": Meaning(
        "the next ADD of this attachment fails", "delete the key", "delete the key"
    ),
    "held-and-released": Meaning(
        "a release of a slot that is held says that it is free",
        "delete the release",
        "delete the release: the holder counts",
    ),
    "release-clock": Meaning(
        "its cool-down would not end when the pool says",
        "delete the release",
        "let it rest anew from now",
    ),
    "buried-clock": Meaning(
        "the claim would be remembered for too long", "delete the key", "remember it from now"
    ),
    "address-disputed": Meaning(
        "a pod lives on its node with an address that is not its here: two pods may have one",
        "delete one of the pods, then report the node anew with netspace-agent prepare; if the node"
        " is gone for good, delete the key of its report",
    ),
    "clock": Meaning("cool-downs cannot be measured", "set it to a number of milliseconds"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flaw:
    """A rule that is broken, by which keys, in words. `change`: what mends it safely, if anything
    does."""

    code: str
    keys: tuple[bytes, ...]
    what: str
    change: Change | None = None

    def finding(self) -> Finding:
        meaning = MEANINGS[self.code]
        return Finding(
            code=self.code,
            keys=[shown(key) for key in self.keys],
            what=self.what,
            why=meaning.why,
            mend=meaning.hand if self.change is None else meaning.mend,
            safe=self.change is not None,
        )


def shown(key: bytes) -> str:
    """A key as a person can read it."""
    return key.decode(errors="backslashreplace")


def mending(
    compares: Sequence[Compare], then: Sequence[Put | Delete], slot: SlotId | None = None
) -> Change:
    """The change of a mend. That its comparison fails says only that it was overtaken."""
    probe = then[0]
    expected = probe.value if isinstance(probe, Put) else None
    slots = () if slot is None else (slot,)
    return Change(tuple(compares), tuple(then), probe.key, expected, slots, shared=True)
