"""What the demo and the bench measure alike: which gateway a flow takes, what is on the wire."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from lab.federation import packets
from lab.federation.capture import Capture, Sightings, pods_only
from lab.federation.flows import Flow
from lab.federation.layout import POD_NETWORKS, LabCluster, LabNode
from lab.federation.packets import Kind, Packet
from lab.federation.place import FederatedPlace

KEPT: Final = 300
"""Frames of a link that are looked into."""


@dataclass(frozen=True, slots=True)
class Wire:
    """What was on a link between two routers. `clear`: packets from or to pods with nothing around
    them, of all that passed; the rest of those that were kept: `kinds` how many of each, `opened`
    of ESP those whose inside was seen, `outer`: how many outer headers packets had, `overhead`: the
    most bytes around a pod's packet by kind, under IPv4. `longest`: bytes of the longest."""

    clear: int
    kinds: Counter[Kind]
    opened: int
    outer: tuple[int, ...]
    overhead: dict[Kind, int]
    longest: int
    example: dict[Kind, Packet] = field(default_factory=dict)


def summary(clear: int, seen: Iterable[Packet | None]) -> Wire:
    """Of the packets of a link."""
    kinds: Counter[Kind] = Counter()
    outer: set[int] = set()
    overhead: dict[Kind, int] = {}
    opened, longest = 0, 0
    example: dict[Kind, Packet] = {}
    for packet in seen:
        if packet is None:
            continue
        kinds[packet.kind] += 1
        longest = max(longest, packet.headers[0].length)
        if packet.kind not in ("esp", "vxlan") or packet.outer_headers is None:
            continue
        opened += packet.kind == "esp"
        outer.add(packet.outer_headers)
        example.setdefault(packet.kind, packet)
        if packet.headers[0].source.version == 4 and packet.overhead is not None:
            overhead[packet.kind] = max(overhead.get(packet.kind, 0), packet.overhead)
    return Wire(clear, kinds, opened, tuple(sorted(outer)), overhead, longest, example)


class Wiretap:
    """Looks at the link between two clusters' routers while it is entered; `wire` afterwards."""

    def __init__(self, lab: FederatedPlace, one: LabCluster, other: LabCluster) -> None:
        self._lab, self._clusters = lab, (one, other)
        space, link = one.router, one.port(other)
        self._all = Capture(space, link, keep=KEPT, arriving=False)
        self._clear = Capture(space, link, arriving=False, program=pods_only())
        self._wire: Wire | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Wiretap:
        with contextlib.ExitStack() as begun:
            for capture in (self._all, self._clear):
                begun.enter_context(capture)
            self._stack = begun.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        names = {each.name for each in self._clusters}
        nodes = [node for node in self._lab.nodes if node.cluster in names]
        keys = packets.esp_keys(self._lab.esp_keys(nodes))
        seen = (packets.read(frame, POD_NETWORKS, keys) for frame in self._all.frames)
        self._wire = summary(self._clear.count, seen)

    @property
    def wire(self) -> Wire:
        assert self._wire is not None
        return self._wire


def gateways_of(
    flows: Sequence[Flow], gateways: Iterable[LabNode], seconds: float
) -> dict[Flow, str]:
    """The gateway that each flow enters by, by looking at all of them while traffic runs. A flow
    that none of them saw is left out."""
    with contextlib.ExitStack() as opened:
        seen = {node.name: opened.enter_context(Sightings(node.name)) for node in gateways}
        time.sleep(seconds)
    found = {}
    for flow in flows:
        counts = {name: sightings.seen[flow.key] for name, sightings in seen.items()}
        name = max(counts, key=lambda each: counts[each], default="")
        if name and counts[name]:
            found[flow] = name
    return found
