"""What is wrong with a cluster's federations, why, and what to do: findings made of the leader's
status and of the nodes' words. Pure.

The same finding of many nodes is one, with their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

from netspace.messages.federating import FederationsStatus, FederationStatus, PeerStatus
from netspacectl.text import duration, listed
from netspacectl.views import Column

Verdict = Literal["fault", "warning"]

SKEW: Final = 5.0
"""Seconds by which the clocks of two clusters may differ."""
WIDE: Final = 60.0
"""Seconds from which on certificates just made on one side are not valid yet on the other."""
EXPIRING: Final = 2 * 86_400
"""Seconds before a certificate's end at which it should have been renewed for long."""
SHOWN: Final = 5
"""Nodes that are named."""


class Diagnosed(msgspec.Struct, kw_only=True, frozen=True):
    """`cause` is from a fixed list, the nodes' own and those here; `subject` says of what, `nodes`
    who found it, `found` what and why, `do` what to do."""

    verdict: Verdict
    cause: str
    subject: str
    found: str
    do: str
    nodes: list[str] = []


FINDINGS: Final[Sequence[Column[Diagnosed]]] = (
    Column("VERDICT", lambda each: each.verdict),
    Column("CAUSE", lambda each: each.cause),
    Column("WHAT", lambda each: each.subject, wraps=True),
    Column("NODES", lambda each: _some(each.nodes), wraps=True),
    Column("WHY", lambda each: each.found, wraps=True),
    Column("DO", lambda each: each.do, wraps=True),
)


def diagnosed(status: FederationsStatus, now: float) -> list[Diagnosed]:
    """All findings, faults first; `now` in Unix time."""
    found = [*_servers(status), *_nodes(status, now)]
    for federation in status.federations:
        found += _federation(status, federation, now)
        for peer in federation.peers:
            found += _peer(status, federation, peer)
    found += _said(status)
    return sorted(found, key=lambda each: (each.verdict != "fault", each.cause, each.subject))


def _servers(status: FederationsStatus) -> Iterator[Diagnosed]:
    if not status.ready:
        yield _fault(
            "server",
            f"server {status.server}",
            status.why,
            "look at the log of netspace-federation serve, and at etcd",
        )
    for federation in status.federations:
        if not any(federation.name in server.keys for server in status.servers):
            yield _warning(
                "certificate",
                f"federation {federation.name}",
                "no server that runs has the key of this cluster's authority: certificates are not"
                " renewed, and new nodes get none",
                "start the server where the cluster founded or joined, or copy its state_dir",
            )


def _federation(
    status: FederationsStatus, federation: FederationStatus, now: float
) -> Iterator[Diagnosed]:
    subject = f"federation {federation.name}"
    for text in federation.faults:
        yield _fault(_cause(text), subject, text, _REMEDIES[_cause(text)])
    until = federation.certificate
    if until is not None and until - now < EXPIRING:
        left = until - now
        said = f"ends in {duration(int(left))}" if left > 0 else "has expired"
        verdict = _fault if left <= 0 else _warning
        why = f"the certificate of server {status.server} {said}"
        yield verdict("certificate", subject, why, _REMEDIES["certificate"])
    if not federation.peers:
        why, do = "this cluster is its only member", "have others join it by a token"
        yield _warning("membership", subject, why, do)


def _peer(
    status: FederationsStatus, federation: FederationStatus, peer: PeerStatus
) -> Iterator[Diagnosed]:
    subject = f"federation {federation.name}, cluster {peer.cluster}"
    if peer.fault:
        cause = "overlap" if "overlap" in peer.fault else "peer"
        why = f"what it tells is not applied, and what was known of it stands: {peer.fault}"
        yield _fault(cause, subject, why, _REMEDIES[cause])
    if not peer.reached:
        cause = contact_cause(peer.why)
        if peer.age is None:
            yield _fault(cause, subject, f"it has never answered: {peer.why}", _REMEDIES[cause])
        else:
            why = f"no answer for {duration(int(peer.age))}, what was known stands: {peer.why}"
            yield _warning(cause, subject, why, _REMEDIES[cause])
    if peer.clock is not None and abs(peer.clock) >= SKEW:
        behind = "ahead of" if peer.clock > 0 else "behind"
        why = f"its server's clock is {duration(round(abs(peer.clock)))} {behind} ours"
        verdict = _fault if abs(peer.clock) >= WIDE else _warning
        yield verdict("clock", subject, why, _REMEDIES["clock"])
    if peer.version is not None and not peer.nodes:
        why = "it has told of no node"
        yield _fault("node", subject, why, "look whether its nodes' agents run")
    elif peer.nodes and peer.down == peer.nodes:
        why = f"all of its {peer.nodes} nodes are silent to their own server"
        yield _fault("node", subject, why, "look whether its nodes' agents run")
    if peer.kind == "heterogeneous" and peer.nodes and not peer.gateways:
        why = "none of its nodes is a gateway, so no tunnel can lead to it"
        yield _fault("gateway", subject, why, _REMEDIES["gateway"])
    wanted = sum(peer.tunnels.values())
    if peer.nodes and peer.gateways and not wanted and status.nodes:
        why = "no node of this cluster wants a tunnel to it"
        do = "see what nodes can with 'netspacectl federation status': ipsec is needed"
        yield _fault("no-esp", subject, why, do)


def _nodes(status: FederationsStatus, now: float) -> Iterator[Diagnosed]:
    silent = [node for node in status.nodes if node.down is not None]
    if silent:
        since = min(now - (node.down or now) for node in silent)
        yield _fault(
            "node",
            f"cluster {status.cluster}",
            f"its agent has said nothing for {duration(max(0, int(since)))} or longer",
            "look whether netspace-federation agent runs there and reaches its server",
            [node.node for node in silent],
        )
    if status.federations and not status.nodes:
        yield _fault(
            "node",
            f"cluster {status.cluster}",
            "no node has ever spoken to its server",
            "start netspace-federation agent on the nodes",
        )


def _said(status: FederationsStatus) -> Iterator[Diagnosed]:
    """What nodes found; each finding once."""
    together: dict[tuple[Verdict, str, str, str], tuple[str, list[str]]] = {}
    for node in status.nodes:
        for each in node.findings if node.down is None else ():
            key = (each.verdict, each.cause, each.subject, each.do)
            together.setdefault(key, (each.found, []))[1].append(node.node)
    for (verdict, cause, subject, do), (found, nodes) in together.items():
        yield Diagnosed(
            verdict=verdict, cause=cause, subject=subject, found=found, do=do, nodes=nodes
        )


def contact_cause(why: str) -> str:
    """The cause of which a server was not reached, by the words of the failure."""
    said = why.lower()
    for words, cause in _CONTACTS:
        if any(word in said for word in words):
            return cause
    return "peer"


_CONTACTS: Final[Sequence[tuple[tuple[str, ...], str]]] = (
    (("not yet valid",), "clock"),
    (("no member", "not been asked yet"), "membership"),
    (("certificate", "unknown ca", "unrecognized name", "handshake", "alert"), "certificate"),
    (("connection refused",), "peer"),
    (("no answer within", "timed out", "no route", "unreachable"), "port"),
    (("name or service", "name resolution", "has no address"), "name"),
)
_REMEDIES: Final[dict[str, str]] = {
    "certificate": "look into the log of this cluster's federation server; where a member was set"
    " up anew, have it leave and join",
    "clock": "set the clocks of both clusters by NTP",
    "configuration": "name ranges, pools or networks with 'netspacectl federation set'",
    "gateway": "have its nodes' configuration or labels say which are gateways, or give it the"
    " layout distributed",
    "ipam": "look at the IPAM server, and at ipam in the federation server's configuration",
    "membership": "have the cluster leave and join again, if it should be a member",
    "name": "correct federation.endpoints of that cluster's servers, or the names' addresses",
    "overlap": "take the range out of one of the two clusters' federated ranges",
    "peer": "look whether the other cluster's federation server runs",
    "port": "let TCP through to federation.endpoints of that cluster's servers (8475 by default)",
    "server": "look into the log of netspace-federation serve",
}


def _cause(text: str) -> str:
    """Of a fault of this cluster, by its words."""
    for word, cause in (
        ("overlap", "overlap"),
        ("was removed", "membership"),
        ("IPAM", "ipam"),
        ("key", "certificate"),
        ("certificate", "certificate"),
        ("no range", "configuration"),
        ("pool", "configuration"),
        ("network", "configuration"),
    ):
        if word in text:
            return cause
    return "server"


def _fault(cause: str, subject: str, found: str, do: str, nodes: Sequence[str] = ()) -> Diagnosed:
    return Diagnosed(
        verdict="fault", cause=cause, subject=subject, found=found, do=do, nodes=list(nodes)
    )


def _warning(cause: str, subject: str, found: str, do: str) -> Diagnosed:
    return Diagnosed(verdict="warning", cause=cause, subject=subject, found=found, do=do)


def _some(nodes: list[str]) -> str:
    more = len(nodes) - SHOWN
    return listed(nodes[:SHOWN]) + (f" and {more} more" if more > 0 else "")
