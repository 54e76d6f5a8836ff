"""What an earlier agent left on the node, as this one takes it up. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from federation.desired import DesiredNode, Path, Policy
from federation.node.policies import PRIORITIES
from federation.plan.paths import PathState, found
from hostnet import xfrm


def adopted(
    desired: DesiredNode,
    states: Iterable[xfrm.State],
    policies: Iterable[xfrm.Policy],
    now: float,
) -> dict[Path, PathState]:
    """The wanted tunnels that the kernel has, with the ordinals of the policies that lead into
    them. Flows take them until probes are lost. Between two gateways there is also the tunnel that
    the other one brought up: its state is marked."""
    there = {
        (state.source, state.target, state.reqid)
        for state in states
        if state.spi and not state.mark
    }
    ordinals = {ends: ordinal for ends, ordinal in map(_led, policies) if ordinal}
    paths = {}
    for tunnel in desired.tunnels:
        ends = ip_address(tunnel.local), ip_address(tunnel.remote), tunnel.reqid
        if ends in there and ends in ordinals:
            paths[tunnel.path] = found(now, ordinals[ends])
    return paths


def _led(policy: xfrm.Policy) -> tuple[tuple[object, object, int], int]:
    """The tunnel that an outgoing policy of ours leads into, and the ordinal in its mark; 0 where
    it is no such policy."""
    template = policy.template
    if policy.priority not in PRIORITIES or policy.direction != "out" or template is None:
        return (None, None, 0), 0
    lowest = policy.mask & -policy.mask
    ends = template.source, template.target, template.reqid
    return ends, policy.mark // lowest if lowest else 0


def standing(present: Iterable[xfrm.Policy]) -> list[Policy]:
    """The policies that are ours and go later than others, as plans have them: those that block,
    and those that lead packets with a mark into tunnels."""
    found = []
    for policy in present:
        if policy.priority not in PRIORITIES:
            continue
        if policy.block:
            found.append(Policy("block", policy.source, policy.destination))
        elif policy.direction == "out" and policy.template is not None and policy.mask:
            into = policy.template
            found.append(
                Policy(
                    "out",
                    policy.source,
                    policy.destination,
                    policy.protocol,
                    policy.port,
                    policy.mark,
                    policy.mask,
                    str(into.source),
                    str(into.target),
                    into.reqid,
                )
            )
    return found
