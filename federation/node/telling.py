"""The agent's status for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from netspace.messages.federation_node import FederationAgentStatus, PathStatus, PeerHealth

MOST: Final = 20
"""Paths to one cluster that are shown one by one."""


def lines_of(status: FederationAgentStatus) -> Iterator[str]:
    yield f"netspace-federation {status.version}, process {status.pid}, since {status.since}"
    kind = "a gateway" if status.gateway else "no gateway"
    yield f"node {status.node} of cluster {status.cluster}, {kind}, CNI {status.cni or 'unknown'}"
    yield f"underlay: {', '.join(status.addresses) or 'NO ADDRESS'}"
    yield f"can: {', '.join(status.capabilities) or 'NOTHING'}"
    yield f"server: {f'NOT ANSWERING: {status.server}' if status.server else 'it answers'}"
    for federation in status.federations:
        yield f"federation {federation.name}"
        for peer in federation.peers:
            yield from _peer(peer)
    for part in status.parts:
        if part.error:
            yield f"{part.name}: {part.error}"
        elif part.pending:
            yield f"{part.name}: on its way to what the plan wants"
    for each in status.findings:
        yield f"{each.verdict.upper()} {each.subject}: {each.found} -> {each.do}"


def _peer(peer: PeerHealth) -> Iterator[str]:
    states = Counter(path.state for path in peer.paths)
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    yield f"  cluster {peer.cluster}, {peer.kind}: {counted or 'no paths'}"
    bad_first = sorted(peer.paths, key=lambda path: path.state == "up")
    for path in bad_first[:MOST]:
        yield f"    {_path(path)}"
    if len(peer.paths) > MOST:
        yield f"    and {len(peer.paths) - MOST} more"


def _path(path: PathStatus) -> str:
    parts = [f"{path.kind} {path.state}"]
    if path.kind == "esp":
        parts.append(f"{path.buckets} of 64 buckets")
    if path.rtt is not None:
        parts.append(f"{path.rtt * 1000:.1f} ms")
    parts.append(f"loss {path.loss:.0%}")
    if path.mtu is not None:
        parts.append(f"MTU {path.mtu}")
    if path.why:
        parts.append(path.why)
    return f"{path.node}: {', '.join(parts)}"
