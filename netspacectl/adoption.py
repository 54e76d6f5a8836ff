"""Which networks follow from what nodes report of their logical cards. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

import msgspec

from netspace.messages import Network, NewNetwork, Node
from netspace.problems import Problem

_SHOWN: Final = 5
"""Nodes named in one line."""
_ALWAYS: Final = ("fabric", "parent", "vlan", "ipv4", "ipv6", "mapping", "range")
_IF_SAID: Final = ("gateway4", "gateway6", "mtu")
"""What an admin may have added to a network later is no disagreement where nodes leave it out."""


class Disagreement(msgspec.Struct, frozen=True):
    """A network that nodes report differently, or otherwise than it is."""

    network: str
    why: str


class Adoption(msgspec.Struct, frozen=True):
    """`make`: networks to be made; `there`: those that are as reported already."""

    make: list[NewNetwork]
    there: list[str]
    disagreements: list[Disagreement]

    def lines(self, *, made: bool) -> Iterator[str]:
        """The same for a person."""
        for new in self.make:
            where = new.parent if new.vlan is None else f"{new.parent}, VLAN {new.vlan}"
            subnets = " and ".join(filter(None, (new.ipv4, new.ipv6)))
            yield f"{'made' if made else 'would be made'}: {new.name} on {where}, {subnets}"
        for name in self.there:
            yield f"there already: {name}"
        for each in self.disagreements:
            yield f"not as reported: {each.network}: {each.why}"
        if not (self.make or self.there or self.disagreements):
            yield "no node reports address space: see `links` in the nodes' configuration"


def adoption(nodes: Sequence[Node], present: Sequence[Network], names: Collection[str]) -> Adoption:
    """What follows from the reports for the networks of these names, or for all without any.
    `Problem` not-found for a name that no node reports."""
    told: dict[str, dict[bytes, list[str]]] = {}
    for node in nodes:
        for network in node.networks:
            if not names or network.name in names:
                said = told.setdefault(network.name, {})
                said.setdefault(msgspec.json.encode(network), []).append(node.name)
    unknown = sorted(set(names) - set(told))
    if unknown:
        raise Problem(
            "not-found",
            f"no node reports {', '.join(unknown)}",
            do="write it as one of `links` in the nodes' configuration",
        )
    there = {network.name: network for network in present}
    found = Adoption([], [], [])
    for name, said in sorted(told.items()):
        new = msgspec.json.decode(next(iter(said)), type=NewNetwork)
        if len(said) > 1:
            found.disagreements.append(Disagreement(name, _apart(said)))
        elif name not in there:
            found.make.append(new)
        elif wrong := _differences(new, there[name]):
            who = _some(next(iter(said.values())))
            found.disagreements.append(Disagreement(name, f"{'; '.join(wrong)} ({who})"))
        else:
            found.there.append(name)
    return found


def _apart(said: dict[bytes, list[str]]) -> str:
    ways = [msgspec.json.decode(way, type=NewNetwork) for way in said]
    fields = [
        field
        for field in NewNetwork.__struct_fields__
        if len({repr(getattr(way, field)) for way in ways}) > 1
    ]
    groups = (
        f"{_some(who)}: {', '.join(f'{f} {_shown(getattr(way, f))}' for f in fields)}"
        for way, who in zip(ways, said.values(), strict=True)
    )
    return f"nodes disagree: {'; '.join(groups)}"


def _differences(new: NewNetwork, there: Network) -> list[str]:
    fields = [*_ALWAYS, *(field for field in _IF_SAID if getattr(new, field))]
    return [
        f"{field} is {_shown(getattr(there, field))}, reported is {_shown(getattr(new, field))}"
        for field in fields
        if getattr(new, field) != getattr(there, field)
    ]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _some(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    return ", ".join(sorted(nodes)[:_SHOWN]) + more
