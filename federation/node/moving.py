"""Flows move from a gateway to the others as soon as its probes say so: the plan as it is, with
other buckets. Pure, and quick whatever the size of the clusters; the whole plan follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from federation.desired import DesiredNode, Path
from federation.plan import gateways
from federation.plan.paths import PathState


def moved(desired: DesiredNode, paths: Mapping[Path, PathState]) -> DesiredNode:
    """The same with the tunnels usable that are so by now, and the buckets that follow from it."""
    tunnels = tuple(
        replace(tunnel, usable=state.usable)
        if (state := paths.get(tunnel.path)) is not None and state.usable != tunnel.usable
        else tunnel
        for tunnel in desired.tunnels
    )
    if tunnels == desired.tunnels:
        return desired
    flows = []
    for each in desired.flows:
        those = [
            tunnel
            for tunnel in tunnels
            if (tunnel.path.federation, tunnel.path.cluster) == (each.federation, each.cluster)
        ]
        chosen = frozenset(tunnel.ordinal for tunnel in those)
        usable = frozenset(tunnel.ordinal for tunnel in those if tunnel.usable)
        buckets = gateways.buckets(chosen, usable) if chosen else each.buckets
        flows.append(each if buckets == each.buckets else replace(each, buckets=buckets))
    return replace(desired, tunnels=tunnels, flows=tuple(flows))
