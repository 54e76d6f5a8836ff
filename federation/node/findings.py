"""Findings of a node about its federations: what is wrong, with what, and what to do. Pure.

A finding has a cause from a fixed list, by which tools know it; the words are for people.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from netspace.messages.federation import FoundFault

Cause = Literal[
    "no-esp",
    "no-vxlan",
    "no-ipv6",
    "charon",
    "port",
    "mtu",
    "clock",
    "certificate",
    "overlap",
    "chain",
    "underlay",
    "server",
    "peer",
    "path",
    "kernel",
    "configuration",
]

REMEDIES: Final[dict[str, str]] = {
    "no-esp": "load the kernel's modules esp4, esp6 and xfrm_user, or join by VXLAN",
    "no-vxlan": "load the kernel's module vxlan",
    "no-ipv6": "turn IPv6 on, or federate ranges of IPv4 alone",
    "charon": "start netspace-charon and look into its log",
    "port": "open UDP 500 and 4500 and IP protocol 50 between the nodes of the clusters",
    "mtu": "raise the underlay's MTU, or have pods' MTU lowered to what is shown",
    "clock": "set the node's clock by NTP",
    "certificate": "look into the log of this cluster's federation server; delete the node's"
    " certificate to have a new one made",
    "overlap": "take the range out of one of the two clusters' federated ranges",
    "chain": "find out which program rewrites the firewall; the chains are hooked in again",
    "underlay": "name the node's addresses in underlay.addresses",
    "server": "check that netspace-federation serve runs and that server.endpoints is right",
    "peer": "check the other cluster's federation server and the way to it",
    "path": "run netspacectl federation verify, or netspace-federation agent verify on the node:"
    " they name the hop that fails",
    "kernel": "look into the agent's log",
    "configuration": "correct the agent's configuration",
}


BRIEF: Final[frozenset[Cause]] = frozenset({"peer", "port", "path"})
SETTLE: Final = 5.0

_Key = tuple[str, str]


class Finding(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """`subject`: a path, a driver, a peer. A `fault` keeps pods from reaching others, or soon will;
    a `warning` does not."""

    cause: Cause
    subject: str
    found: str
    do: str = ""
    verdict: Literal["warning", "fault"] = "fault"

    def __str__(self) -> str:
        return f"{self.subject}: {self.found}"


def finding(
    cause: Cause, subject: str, found: str, verdict: Literal["warning", "fault"] = "fault"
) -> Finding:
    """With what to do about such a cause."""
    return Finding(cause=cause, subject=subject, found=found, do=REMEDIES[cause], verdict=verdict)


def told(found: Iterable[Finding]) -> list[FoundFault]:
    """As they are told to others, no words longer than these take."""
    return [
        FoundFault(
            verdict=each.verdict,
            cause=each.cause,
            subject=each.subject[:500],
            found=each.found[:1000],
            do=each.do[:1000],
        )
        for each in found
    ]


class Book:
    """The findings there are now, by who found them. Each is told once when it is new and once when
    it is gone; what comes and goes while clusters join and gateways change (`BRIEF`) is told when
    it has stood for `SETTLE` seconds."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Finding, ...]] = {}
        self._since: dict[str, dict[_Key, float]] = {}
        self._told: dict[str, dict[_Key, Finding]] = {}

    def put(
        self, who: str, found: Iterable[Finding], now: float
    ) -> tuple[list[Finding], list[Finding]]:
        """All that `who` finds now (monotonic seconds); which is to be told as new, which as
        gone."""
        present = self._found[who] = tuple(found)
        known, told = self._since.get(who, {}), self._told.get(who, {})
        since = self._since[who] = {_key(each): known.get(_key(each), now) for each in present}
        self._told[who] = {
            _key(each): each
            for each in present
            if _key(each) in told or each.cause not in BRIEF or now - since[_key(each)] >= SETTLE
        }
        return (
            [each for key, each in self._told[who].items() if key not in told],
            [each for key, each in told.items() if key not in since],
        )

    def all(self) -> list[Finding]:
        """Faults first."""
        every = [each for found in self._found.values() for each in found]
        return sorted(every, key=lambda each: (each.verdict != "fault", each.subject, each.found))


def _key(each: Finding) -> _Key:
    """What makes it the same one, however its words change (a loss, an age)."""
    return each.cause, each.subject
