"""What `netspacectl federation` makes of what servers tell, and of what people write."""

from __future__ import annotations

from typing import Any

import click
import pytest

from netspace.messages.federating import (
    FederationServer,
    FederationsStatus,
    FederationStatus,
    NodeStatus,
    PeerStatus,
)
from netspace.messages.federation import FoundFault, PathWord, Version
from netspace.messages.federation_node import Hop, VerifiedPath
from netspace.messages.federation_trials import (
    BenchedPath,
    Direction,
    NodeTrial,
    PodTarget,
    TrialReport,
    TriedPod,
)
from netspacectl import federation_views as views
from netspacectl.commands.federation_trials import PodAddress, pod_of
from netspacectl.federation_diagnosis import Diagnosed, contact_cause, diagnosed

NOW = 1_000_000.0


def peer(**other: Any) -> PeerStatus:
    """A member that is well: two nodes, both gateways, a tunnel to each."""
    given: dict[str, Any] = {
        "cluster": "west", "kind": "heterogeneous", "reached": True, "contact": int(NOW),
        "age": 3.0, "why": "", "fault": "", "version": Version(epoch=1, number=1), "cni": "x",
        "ranges": ["10.2.0.0/16"], "nodes": 2, "down": 0, "gateways": ["w1", "w2"],
        "available": ["w1", "w2"], "tunnels": {"up": 2, "connecting": 0, "down": 0}, "clock": 0.1,
    }  # fmt: skip
    return PeerStatus(**{**given, **other})


def node(name: str = "e1", **other: Any) -> NodeStatus:
    given: dict[str, Any] = {
        "node": name, "heard": 1.0, "down": None, "gateway": True, "cni": "y",
        "addresses": ["192.0.2.1"], "capabilities": ["ipsec"], "paths": [], "faults": [],
    }  # fmt: skip
    return NodeStatus(**{**given, **other})


def status(
    *peers: PeerStatus, nodes: list[NodeStatus] | None = None, **other: Any
) -> FederationsStatus:
    """Of the cluster east, which is in the federation f and well but for what is given."""
    own: dict[str, Any] = {
        "name": "f", "founder": "east", "number": 1, "version": Version(epoch=1, number=1),
        "ranges": ["10.1.0.0/16"], "peers": list(peers) or [peer()], "faults": [],
        "certificate": int(NOW) + 20 * 86_400,
    }  # fmt: skip
    for name in set(own) & set(other):
        own[name] = other.pop(name)
    given: dict[str, Any] = {
        "version": "1", "cluster": "east", "server": "s1", "leader": "s1", "ready": True,
        "why": "", "servers": [FederationServer(name="s1", endpoint="unix:///x", keys=["f"])],
        "federations": [FederationStatus(**own)], "nodes": [node()] if nodes is None else nodes,
    }  # fmt: skip
    return FederationsStatus(**{**given, **other})


def found(*peers: PeerStatus, **other: Any) -> list[Diagnosed]:
    return diagnosed(status(*peers, **other), NOW)


def test_where_all_is_well_nothing_is_found() -> None:
    assert found() == []
    assert not views.ill(status())


CASES: list[tuple[str, dict[str, Any], dict[str, Any], str, str, str]] = [
    ("overlap", {"fault": "range 10.2.0.0/16 of cluster west overlaps …"}, {}, "overlap",
     "fault", "what was known of it stands"),
    ("never answered", {"reached": False, "age": None, "why": "no answer within 5.0 s"}, {},
     "port", "fault", "never answered"),
    ("silent", {"reached": False, "age": 90.0, "why": "x: Connection refused"}, {},
     "peer", "warning", "no answer for 1m30s"),
    ("clock", {"clock": -8.0}, {}, "clock", "warning", "8s behind ours"),
    ("wide clock", {"clock": 300.0}, {}, "clock", "fault", "5m ahead of ours"),
    ("no gateway", {"gateways": [], "available": []}, {}, "gateway", "fault", "no tunnel can lead"),
    ("no node", {"nodes": 0, "gateways": []}, {}, "node", "fault", "told of no node"),
    ("all nodes down", {"down": 2}, {}, "node", "fault", "silent to their own server"),
    ("no tunnel wanted", {"tunnels": {"up": 0, "connecting": 0, "down": 0}}, {}, "no-esp",
     "fault", "wants a tunnel"),
    ("not ready", {}, {"ready": False, "why": "no server leads"}, "server", "fault", "no server"),
    ("no key", {}, {"servers": []}, "certificate", "warning", "no server that runs has the key"),
    ("expired", {}, {"certificate": int(NOW) - 1}, "certificate", "fault", "has expired"),
    ("expiring", {}, {"certificate": int(NOW) + 3600}, "certificate", "warning", "ends in 1h"),
    ("own overlap", {}, {"faults": ["range … overlaps …"]}, "overlap", "fault", "overlaps"),
    ("put out", {}, {"faults": ["this cluster was removed from federation f"]}, "membership",
     "fault", "was removed"),
    ("nothing federated", {}, {"faults": ["no range is federated: nothing …"]}, "configuration",
     "fault", "no range"),
    ("silent node", {}, {"nodes": [node(), node("e2", down=int(NOW) - 60)]}, "node", "fault",
     "nothing for 1m"),
    ("no node of ours", {}, {"nodes": []}, "node", "fault", "no node has ever spoken"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("theirs", "ours", "cause", "verdict", "why"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_a_cause_is_named_with_what_to_do(
    theirs: dict[str, Any], ours: dict[str, Any], cause: str, verdict: str, why: str
) -> None:
    [each] = [one for one in found(peer(**theirs), **ours) if one.cause == cause]
    assert each.verdict == verdict and each.do and each.subject
    assert why in each.found


def finding(cause: str, verdict: str = "fault") -> FoundFault:
    return FoundFault(
        verdict=verdict,  # type: ignore[arg-type]
        cause=cause,
        subject="kernel",
        found=f"{cause} is missing",
        do="load it",
    )


def test_what_many_nodes_find_is_one_finding_with_their_names() -> None:
    nodes = [node(f"e{number}", findings=[finding("no-esp")]) for number in range(7)]
    nodes += [node("quiet", down=int(NOW), findings=[finding("mtu")])]
    all_found = found(nodes=nodes)
    [each] = [one for one in all_found if one.cause == "no-esp"]
    assert each.nodes == [f"e{number}" for number in range(7)]
    assert not [one for one in all_found if one.cause == "mtu"], "what a silent node once found"


def test_faults_come_before_warnings() -> None:
    nodes = [node(findings=[finding("mtu", "warning"), finding("port")])]
    assert [each.verdict for each in found(nodes=nodes)] == ["fault", "warning"]


@pytest.mark.parametrize(
    ("why", "cause"),
    [
        ("https://w:8475: certificate verify failed: certificate is not yet valid", "clock"),
        ("certificate verify failed: certificate has expired", "certificate"),
        ("tlsv1 alert unknown ca", "certificate"),
        ("cluster east of federation f is no member of federation f here", "membership"),
        ("https://w:8475: Connection refused", "peer"),
        ("https://w:8475: no answer within 5.0 s", "port"),
        ("https://w:8475: No route to host", "port"),
        ("https://w:8475: Name or service not known", "name"),
        ("anything else", "peer"),
    ],
)
def test_why_a_server_is_not_reached_has_a_cause(why: str, cause: str) -> None:
    assert contact_cause(why) == cause


@pytest.mark.parametrize(
    "other",
    [
        {"reached": False, "why": "away"},
        {"fault": "overlap"},
        {"tunnels": {"up": 1, "connecting": 0, "down": 1}},
        {"tunnels": {"up": 0, "connecting": 2, "down": 0}},
    ],
)
def test_a_member_that_is_not_well_makes_the_status_ill(other: dict[str, Any]) -> None:
    assert views.ill(status(peer(**other)))


def test_a_tunnel_that_comes_up_beside_one_that_is_up_is_no_fault() -> None:
    assert not views.ill(status(peer(tunnels={"up": 1, "connecting": 1, "down": 0})))


def path(name: str, state: str, loss: float = 0.0, federation: str = "f") -> PathWord:
    return PathWord(federation=federation, cluster="west", node=name, state=state, loss=loss)  # type: ignore[arg-type]


def test_the_worst_paths_are_shown_first() -> None:
    paths = [path("w4", "up"), path("w1", "up"), path("w2", "down"), path("w3", "up", 0.5)]
    rows = views.path_rows(status(nodes=[node(paths=paths)]))
    assert [row.path.node for row in rows] == ["w2", "w3", "w1", "w4"]


def test_one_federation_alone_is_shown() -> None:
    paths = [path("w1", "up"), path("w1", "up", federation="g")]
    shown = views.only(status(nodes=[node(paths=paths)]), "g")
    assert shown.federations == []
    assert [each.federation for each in shown.nodes[0].paths] == ["g"]


def text_of(columns: Any, row: Any) -> dict[str, str]:
    return {column.title: column.text(row) for column in columns}


def test_a_members_row_tells_what_is_there_of_what_is_wanted() -> None:
    far = peer(available=["w2"], tunnels={"up": 3, "connecting": 0, "down": 1}, age=75.0)
    [row] = views.member_rows(status(far))
    shown = text_of(views.MEMBERS, row)
    assert (shown["GATEWAYS"], shown["TUNNELS"], shown["CONTACT"]) == ("1/2", "3/4", "1m15s ago")
    [row] = views.member_rows(status(peer(kind="homogeneous", gateways=[], age=None, down=1)))
    shown = text_of(views.MEMBERS, row)
    assert (shown["GATEWAYS"], shown["CONTACT"], shown["NODES"]) == ("-", "never", "2, 1 down")


def test_a_server_without_its_certificate_stands_so_above_the_tables() -> None:
    servers = [
        FederationServer(name="s1", endpoint="unix:///x", keys=["f"]),
        FederationServer(name="s2", endpoint="unix:///y", keys=[], uncertified=["f"]),
    ]
    assert dict(views.head(status(servers=servers)))["servers"] == "s1, s2 (NO CERTIFICATE of f)"


def report(there: Direction, back: Direction | None = None) -> TrialReport:
    return TrialReport(id="0", federation="f", what="verify", done=True, there=there, back=back)


def test_what_was_verified_is_told_by_the_hop_that_fails() -> None:
    good = VerifiedPath(node="w1", hops=[Hop(name="mtu", ok=True, found="1446 bytes")])
    hops = [Hop(name="node", ok=True, found="x"), Hop(name="tunnel", ok=False, found="y", do="z")]
    bad = VerifiedPath(node="w2", hops=hops, fails="tunnel")
    pods = [TriedPod(pod="10.2.0.5:443", ok=False, found="refused", do="expose it")]
    there = Direction(
        source="east",
        target="west",
        nodes=[
            NodeTrial(node="e1", verified=[good, bad], pods=pods, left_out=3),
            NodeTrial(node="e2", why="its agent has not answered"),
        ],
        left_out=9,
    )
    back = Direction(source="west", target="east", why="its servers cannot be asked")
    rows = views.verified_rows(report(there, back))
    assert [(row.start, row.end, row.fails, row.found) for row in rows] == [
        ("east/e1", "west/w1", "", "1446 bytes"),
        ("east/e1", "west/w2", "tunnel", "y"),
        ("east/e1", "pod 10.2.0.5:443", "pod", "refused"),
        ("east/e2", "west", "node", "its agent has not answered"),
        ("west", "east", "server", "its servers cannot be asked"),
    ]
    assert views.left_out(report(there)) == [
        "9 more nodes of cluster east",
        "3 more paths from cluster east",
    ]


def test_what_was_benched_is_told_in_megabits() -> None:
    good = BenchedPath(node="w1", rtt=0.0021, size=1446, asked=10e6, got=9.5e6, loss=0.05)
    bad = BenchedPath(node="w2", why="none of 10 probes was answered")
    there = Direction(
        source="east", target="west", nodes=[NodeTrial(node="e1", benched=[good, bad])]
    )
    first, second = (text_of(views.BENCHED, row) for row in views.benched_rows(report(there)))
    assert (first["ROUND TRIP"], first["SENT"], first["ARRIVED"], first["LOSS"]) == (
        "2.10 ms",
        "10 Mbit/s",
        "9.5 Mbit/s",
        "5%",
    )
    assert (second["SENT"], second["WHY"]) == ("-", "none of 10 probes was answered")


@pytest.mark.parametrize(
    ("text", "pod"),
    [
        ("10.2.0.5", PodTarget(address="10.2.0.5")),
        ("10.2.0.5:443", PodTarget(address="10.2.0.5", port=443)),
        ("fd00::5", PodTarget(address="fd00::5")),
        ("[fd00::5]:443", PodTarget(address="fd00::5", port=443)),
    ],
)
def test_a_pod_is_written_as_it_is_read(text: str, pod: PodTarget) -> None:
    assert pod_of(text) == pod
    assert str(pod) == text


@pytest.mark.parametrize(
    "text", ["", "web", "10.2.0.5:", "10.2.0.5:0", "10.2.0.5:99999", "10.2.0.5:+1", "[fd00::5]"]
)
def test_what_is_no_pods_address_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 10"):
        PodAddress().convert(text, None, None)
