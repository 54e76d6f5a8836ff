"""What users of other systems complain of, each by name, over three clusters with real programs.

What is held elsewhere, on parts as real, stands there alone (a name without a file: in
`test_federation_ipsec.py`, beside this one):

- one gateway's bandwidth, as a figure: `bench federation`
- gateways that fail, agents that restart: `test_federation_agent_ipsec.py`,
  `test_flows_of_a_gateway_that_fails…`, `test_agents_that_restart_disturb_no_flow`
- sequence numbers: `test_keys_are_renewed_by_packets_before_sequence_numbers_end…`
- a charon that is killed: `test_a_killed_charon_comes_back…`, `test_a_gateway_whose_charon…`
- states that somebody deleted: `test_a_tunnel_whose_states_somebody_deleted_is_brought_up_again`
- wrong certificates: `test_a_certificate_of_another_authority…`, `test_a_gateway_of_another…`,
  `test_an_expired_certificate…`; towards servers `etcd/test_federation_servers.py`
- another program's policy in our place: `test_a_policy_that_is_somebody_elses_is_not_replaced`
- clear text: `test_without_a_tunnel…`, `test_clear_text_from_a_federated_source…`
- own chain not hooked any more: `kernel/test_federation_firewall.py`,
  `test_the_agent_hooks_again_within_two_seconds`
- SYN-ACK by another gateway: there, `test_an_answer_whose_question_went_by_another_gateway_passes`
- FDB entries, one by one: `kernel/test_federation_vxlan.py`
- an agent that starts without its server: `kernel/test_federation_agent.py`
- older information: `unit/test_federation_exchange.py`, `test_older_information_is_ignored…`
- a leader that is killed: `etcd/test_federation_servers.py`, `test_another_server_leads_on…`
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from federation.node import chains
from federation.plan.heterogeneous import esp_mtu
from hostnet import open_netns, xfrm
from lab import programs, topology
from lab.federation import packets, reach, wiring
from lab.federation.capture import Capture, pods_only
from lab.federation.flows import longest_gap_ms, lost
from lab.federation.layout import POD_NETWORKS, LabNode
from lab.federation.place import FederatedPlace, ip_text
from lab.federation.traffic import Traffic
from lab.federation.wiring import LabPod
from netspace.messages.federating import ChangeFederation
from netspace.messages.federation import Layout
from netspace.problems import Problem
from tests.federation_complaints import (
    A1,
    AGENTS,
    B1,
    B2,
    C1,
    CLUSTERS,
    NAME,
    PATHS,
    SERVERS,
    SETTINGS,
    A,
    B,
    C,
    Complaints,
    dump,
    esp_packets,
    learned_mtu,
    losses,
    others_tunnel_works,
    ours,
    restore,
    segment_size,
    spis,
    states,
)
from tests.wires import send_from

pytestmark = pytest.mark.skipif(bool(xfrm.esp_missing()), reason="needs ESP: the lab kernel has it")

TWO = {"a1": {"b1", "b2"}, "b1": {"a1"}, "b2": {"a1"}}
SECONDS = 15.0
"""Within which it is said that a cluster is dead, with probes every half second."""
GAP = 1500.0
"""Milliseconds that flows may stand still when a gateway is one no more: as when it fails. A flow
that lost nothing did not, however late the processor let it arrive."""
OF_C = ("10.103.", "fd00:103", "172.31.3.", "fd31:3:", chains._cluster(NAME, "c"), "nsf")


@pytest.fixture(scope="module")
def world() -> Iterator[Complaints]:
    """a and b in a federation; c is there and no member."""
    with FederatedPlace(CLUSTERS, SERVERS, AGENTS) as lab:
        began = time.monotonic()
        made = Complaints(lab)
        print(f"all stands after {time.monotonic() - began:.1f} s")
        made.found()
        made.join(B)
        print(f"a and b are joined after {made.until_up(TWO):.1f} s")
        yield made


@pytest.fixture(scope="module")
def trio(world: Complaints) -> Complaints:
    """c has joined, too."""
    flows = [*world.flows(A1, B2, 2), *world.flows(B2, A1, 2, 21000)]
    before = dump(A1)
    with Traffic(flows, tick=0.05) as traffic:
        world.join(C)
        print(f"c has joined after {world.until_up():.1f} s")
    world.joining = traffic.records, before.difference(dump(A1))
    return world


def _but_for_c(lines: list[str]) -> list[str]:
    """Without what is of cluster c, and the sets and clamps of all members together."""
    shared = ("netspace-fed-r", "netspace-fed-m", "netspace-fed-p", "NETSPACE-FED-MSS")
    return [line for line in lines if not any(mark in line for mark in (*OF_C, *shared))]


# Wrong tokens


def test_a_wrong_token_makes_no_member_and_no_tunnel(world: Complaints) -> None:
    token = world.token()
    middle = len(token) // 2
    wrong = token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]
    for bad in (wrong, "not a token at all"):
        with pytest.raises(Problem) as refused:
            world.join(C, bad)
        assert "token" in refused.value.detail
    assert world.lab.members["c"].status().federations == []
    assert [node for node in ("a1", "b1", "b2") if (node, "c1") in world.paths()] == []
    assert states(C1) == []
    assert ours(A1, *OF_C[:4]) == []


# A third cluster


def test_a_third_clusters_joining_is_not_noticed_by_the_others(trio: Complaints) -> None:
    records, changed = trio.joining
    assert losses(records) == []
    assert _but_for_c(changed) == []


# One gateway's bandwidth, softirq load


@dataclass
class Spread:
    """Of datagrams: `wire`: ESP packets to each gateway; `probes`: how many of them may be some."""

    sent: int
    lost: int
    repeated: int
    wire: dict[str, int]
    probes: int


@pytest.fixture(scope="module")
def spread(trio: Complaints) -> Spread:
    """64 flows to one node by two gateways, each of which may take three quarters of it."""
    nodes = {node.name: node.underlay[1] for node in (B1, B2)}
    tick, seconds = 0.25, 4
    rate = int(64 / tick * 0.75)
    rules = [
        f"FORWARD -d {address}/128 -p esp {rest}"
        for address in nodes.values()
        for rest in (f"-m limit --limit {rate}/sec --limit-burst 128 -j ACCEPT", "-j DROP")
    ]

    def police(verb: str) -> None:
        text = "\n".join(["*filter", *(f"{verb} {rule}" for rule in rules), "COMMIT", ""])
        restore(B.router, "\n", text)

    trio.until_up()
    for _ in range(3):
        chosen = _chosen()
        police("-A")
        began = time.monotonic()
        try:
            with Traffic(trio.flows(A1, B2, 32), tick=tick) as traffic:
                time.sleep(seconds)
            wire = {name: esp_packets(B.router, address) for name, address in nodes.items()}
            took = time.monotonic() - began
        finally:
            police("-D")
        # Where flows moved since a gateway was out for a moment, it is measured again.
        if chosen == _chosen():
            break
    found = Spread(
        sum(len(each.sent) for each in traffic.records),
        lost(traffic.records),
        sum(each.repeated for each in traffic.records),
        wire,
        # Two gateways, and what measures a path's MTU.
        probes=2 * int(took / SETTINGS.probe) + 40,
    )
    print(found)
    return found


def _chosen() -> list[str]:
    """The tunnels that a1's flows take."""
    return [line for line in dump(A1).lines if "-j MARK --set-xmark 0x" in line]


def test_one_gateways_bandwidth_is_not_the_limit(spread: Spread) -> None:
    """All of it arrives, though it is more than one gateway may take."""
    assert spread.lost == 0
    assert max(spread.wire.values()) <= 0.6 * sum(spread.wire.values())


def test_softirq_load_is_spread_and_nothing_is_sent_or_received_twice(spread: Spread) -> None:
    """Each datagram is one ESP packet to one gateway, which hands it on as it is."""
    assert spread.sent <= sum(spread.wire.values()) <= spread.sent + spread.probes
    assert spread.repeated == 0
    assert {str(state.target) for state in states(B1)} == {A1.underlay[1], B1.underlay[1]}


# Other CNIs


def test_another_cnis_translation_and_its_drops_do_not_touch_what_is_federated(
    trio: Complaints,
) -> None:
    rules = dump(B1).without_ours()
    for rule in (":FORWARD DROP", "--ctstate INVALID -j DROP", "-j MASQUERADE"):
        assert any(rule in line for line in rules), rule
    pairs = [(trio.pod_of(one), trio.pod_of(other)) for one, other in ((A1, B1), (A1, B2))]
    assert reach.broken(reach.ways(pairs)) == {}
    flows = [*trio.flows(A1, B2, 4), *trio.flows(B2, A1, 4, 21000)]
    with (
        _arriving(trio.pod_of(B2)) as at_b,
        _arriving(trio.pod_of(A1)) as at_a,
        Traffic(flows, tick=0.1) as traffic,
    ):
        time.sleep(1)
    assert losses(traffic.records) == []
    assert _sources(at_b) == set(trio.pod_of(A1).addresses), "from the pod's own address"
    assert _sources(at_a) == set(trio.pod_of(B2).addresses)


def _arriving(pod: LabPod) -> Capture:
    """What comes to a pod or a host."""
    return Capture(pod.netns.removeprefix(topology.PREFIX), _card(pod))


def _card(pod: LabPod) -> str:
    return "eth0" if "pod-" in pod.netns else wiring.UPLINK


def _sources(capture: Capture, protocols: tuple[int, ...] = (packets.UDP,)) -> set[str]:
    return {
        str(header.source)
        for header in map(_outer, capture.frames)
        if header is not None and header.protocol in protocols
    }


def _outer(frame: bytes) -> packets.Header | None:
    return packets.ip_header(frame, 14, {0x0800: 4, 0x86DD: 6}.get(frame[12] << 8 | frame[13], 0))


# MTU


@pytest.mark.parametrize(
    ("one", "other", "mtu"),
    [(A1, C1, esp_mtu(1400, C1.underlay[1])), (B1, C1, 1500 - 50)],
    ids=["ESP over IPv6 over 1400 bytes", "VXLAN"],
)
def test_segments_fit_the_path_in_both_directions_and_large_datagrams_arrive(
    trio: Complaints, one: LabNode, other: LabNode, mtu: int
) -> None:
    here, there = trio.pod_of(one), trio.pod_of(other)
    assert trio.paths()[one.name, other.name].mtu == mtu
    found: dict[str, list[int]] = {"SYN": [], "SYN-ACK": []}

    def look(frame: bytes) -> None:
        if (size := segment_size(frame)) is not None:
            found[size[0]].append(size[1] + (40 if frame[12] == 0x08 else 60))

    captures = [
        Capture(pod.netns.removeprefix(topology.PREFIX), "eth0", keep=0, each=look)
        for pod in (here, there)
    ]
    with captures[0], captures[1]:
        assert reach.broken(reach.ways([(here, there)])) == {}
    for kind, sizes in found.items():
        assert len(sizes) >= 4, kind
        assert set(sizes) == {mtu}, kind
    for pods in ((here, there), (there, here)):
        for at in (0, 1):
            learned = learned_mtu(*pods, at)
            assert learned == mtu, (pods[0].name, at)


# Hosts outside, and nothing in clear


def test_hosts_outside_reach_what_they_reached_before_and_are_reached_in_clear(
    trio: Complaints,
) -> None:
    assert len(trio.outside) >= 12
    assert reach.silent(trio.outside, 5) == []
    for host in trio.hosts.values():
        ways = [way for way in trio.outside if way.target is host]
        with _arriving(host) as seen:
            assert reach.silent(ways, 5) == []
        kinds = {packet.kind for f in seen.frames if (packet := packets.read(f, POD_NETWORKS))}
        assert kinds == {"other"}, "neither a tunnel nor a pod's address"
        nodes = {address for way in ways for address in way.source.node.underlay}
        assert nodes <= _sources(seen, (1, 58)), "the other CNI's translation"


def test_a_host_outside_cannot_speak_as_a_federated_pod_to_a_gateway(trio: Complaints) -> None:
    """It sends to the first gateway for a pod behind the second one, as that gateway would hand it
    on."""
    near, source, target = trio.hosts["near"], trio.pod_of(A1), trio.pod_of(B2)
    macs = {}
    for name in ("near", "b1"):
        said = ip_text(name, "link", "show", wiring.UPLINK)
        macs[name] = said.split("link/ether ")[1].split()[0]
    frames = [
        bytes(
            Ether(src=macs["near"], dst=macs["b1"])
            / (IPv6(src=own, dst=far) if ":" in own else IP(src=own, dst=far))
            / UDP(sport=4444, dport=7000)
            / b"forged"
        )
        for own, far in zip(source.addresses, target.addresses, strict=True)
    ]
    before = _mismatches()
    with _arriving(target) as seen, open_netns(str(topology.NETNS / near.netns)) as space:
        send_from(space, wiring.UPLINK, frames * 3)
        with Traffic(trio.flows(A1, B2, 2), tick=0.1) as traffic:
            time.sleep(0.5)
    assert losses(traffic.records) == [], "what comes by a tunnel arrives"
    assert not [frame for frame in seen.frames if b"forged" in frame]
    assert _mismatches() >= before + len(frames) * 3


def _mismatches() -> int:
    """Packets that the first gateway's policies refused."""

    def read(_: object) -> str:
        return Path("/proc/thread-self/net/xfrm_stat").read_text()

    counts = dict(line.split() for line in topology.within(topology.netns("b1"), read).splitlines())
    return sum(int(counts[name]) for name in ("XfrmInTmplMismatch", "XfrmInNoPols"))


# Another program's IPsec, both kinds, sequence numbers


def test_another_programs_ipsec_works_beside_and_is_untouched(trio: Complaints) -> None:
    assert others_tunnel_works()
    for node in trio.lab.nodes:
        assert set(trio.before[node.name].lines) <= set(dump(node).lines)


def test_both_kinds_are_in_one_cluster_at_once(trio: Complaints) -> None:
    asked = reach.ways(
        (trio.pod_of(one), trio.pod_of(other))
        for one, other in ((A1, B1), (A1, B2), (A1, C1), (B1, C1), (B2, C1))
    )
    assert reach.silent(asked, 5, count=2) == []
    assert {str(state.target) for state in states(B1)} == {A1.underlay[1], B1.underlay[1]}
    assert {str(state.target) for state in states(C1)} == {A1.underlay[1], C1.underlay[1]}


def test_sequence_numbers_are_extended_and_a_change_of_keys_loses_nothing(
    trio: Complaints,
) -> None:
    said = ip_text("a1", "xfrm", "state").replace("\n\t", " ").splitlines()
    mine = [each for each in said if f"spi {0:#010x}" not in each and "reqid 131" in each]
    assert len(mine) >= 2 * len(PATHS["a1"])
    assert all("esn" in each for each in mine)
    ends = [B1.underlay[1], B2.underlay[1]]
    before = {end: spis(A1, end) for end in ends}
    flows = [*trio.flows(A1, B2, 4), *trio.flows(B2, A1, 4, 21000)]
    with Traffic(flows, tick=0.05) as traffic:
        trio.until(lambda: all(spis(A1, end) - before[end] for end in ends), "new keys", 60)
        time.sleep(1)
    assert losses(traffic.records) == []


# The same once more


def test_the_same_information_twice_changes_nothing_in_the_kernel(trio: Complaints) -> None:
    """Full readings every three seconds, and a change to what is already so."""
    before = {node.name: dump(node) for node in (A1, B1)}
    version = trio.sees(A, B).version
    for which in (A, B, C):
        same = ChangeFederation(ranges=list(which.ranges), layout="distributed")
        trio.lab.members[which.name].ask(
            lambda client, c=which.name, s=same: client.change(c, NAME, s)  # type: ignore[misc]
        )
    time.sleep(SERVERS["times"]["refresh"] + 2)
    assert trio.sees(A, B).version == version
    for node in (A1, B1):
        assert before[node.name].difference(dump(node)) == []


# Missing entries


def test_missing_fdb_entries_come_back(trio: Complaints) -> None:
    device = next(
        name for name in ip_text("b1", "-br", "link").split() if name.startswith("nsf")
    ).partition("@")[0]

    def entries() -> set[str]:
        return {line for line in bridge("fdb", "show", "dev", device).splitlines() if "dst" in line}

    def bridge(*words: str) -> str:
        return subprocess.run(
            [str(programs.find("bridge")), "-n", topology.netns("b1"), *words],
            capture_output=True, text=True, check=True, env=programs.environment(),
        ).stdout  # fmt: skip

    before = entries()
    assert before
    for entry in before:
        bridge("fdb", "del", entry.split()[0], "dev", device)
    # They may be back already.
    trio.until(lambda: entries() == before, "the entries are back", 10)
    way = reach.ways([(trio.pod_of(B1), trio.pod_of(C1))])
    assert reach.silent(way, 5) == []


# A dead cluster


def test_a_dead_cluster_is_said_to_be_dead_and_nothing_of_the_others_changes(
    trio: Complaints,
) -> None:
    a, c = trio.pod_of(A1), trio.pod_of(C1)
    ways = reach.ways([(a, c)])
    before = {node.name: dump(node) for node in (A1, B1)}
    flows = [*trio.flows(A1, B2, 2), *trio.flows(B2, A1, 2, 21000)]
    with Traffic(flows, tick=0.1) as traffic:
        wall = "*filter\n{verb} FORWARD -j DROP\nCOMMIT\n"
        restore("rc", wall.format(verb="-I"))
        try:
            seconds = trio.until(lambda: trio.paths("a")["a1", "c1"].state == "down", "dead")
            print(f"said to be dead after {seconds:.1f} s")
            assert seconds < SECONDS
            assert trio.paths("a")["a1", "c1"].why
            assert trio.sees(A, C).tunnels["up"] == 0
            with Capture("ra", A.port(C), arriving=False, program=pods_only()) as clear:
                assert reach.silent(ways, 2) == ways
            assert clear.count == 0
            trio.until(lambda: (trio.sees(A, C).age or 0) > 9, "its server is silent", 60, 1.0)
            (own,) = trio.lab.members["a"].status().nodes
            assert any("cluster c" in each.subject for each in own.findings), own.findings
            for node in (A1, B1):
                assert _but_for_c(before[node.name].difference(dump(node))) == []
            assert ours(A1, *C.ranges), "its routes and what blocks clear text stand"
        finally:
            restore("rc", wall.format(verb="-D"))
    assert losses(traffic.records) == []
    print(f"alive again after {trio.until_up():.1f} s")
    assert reach.silent([*ways, *reach.ways([(trio.pod_of(B1), c)])], 10) == []


# A gateway that is one no more


def test_a_node_that_stops_being_a_gateway_keeps_nothing_of_it_and_all_of_its_own(
    trio: Complaints,
) -> None:
    before = {node.name: dump(node) for node in (A1, B2)}
    end, own = B2.underlay[1], A1.underlay[1]
    flows = [*trio.flows(A1, B2, 4), *trio.flows(B2, A1, 4, 21000)]

    def change(layout: Layout) -> None:
        trio.lab.members["b"].ask(
            lambda client: client.change("b", NAME, ChangeFederation(layout=layout))
        )

    with Traffic(flows, tick=0.05) as traffic:
        began = time.monotonic()
        change("centralised")
        wanted = PATHS | {"a1": {"b1", "c1"}}
        trio.until_up(wanted)
        trio.until(lambda: not spis(A1, end), "a1 has no state to it", 30)
        assert not [line for line in ours(A1, end) if "dir out" in line]
        time.sleep(1)
        middle = time.monotonic()
        change("distributed")
        trio.until_up()
        time.sleep(1)
    touched = [record for record in traffic.records if record.lost()]
    late = traffic.worst_tick * 1e3
    assert longest_gap_ms(touched, began) < GAP + late, losses(touched)
    assert lost(traffic.records, middle) == 0, losses(traffic.records)
    assert spis(A1, end)
    assert spis(B2, own)
    for node in (A1, B2):
        # What led elsewhere goes when nothing is marked for it any more.
        trio.until(
            lambda n=node: before[n.name].difference(dump(n)) == [],  # type: ignore[misc]
            lambda n=node: f"{n.name}: {before[n.name].difference(dump(n))}",  # type: ignore[misc]
            20, 1.0,
        )  # fmt: skip
        assert before[node.name].without_ours() == dump(node).without_ours()


# A lost lease


def test_tunnels_come_back_while_the_leader_has_lost_its_lease(trio: Complaints) -> None:
    """a's server stands still for longer than its lease, a1's charon is killed meanwhile."""
    member = trio.lab.members["a"]
    pid = member.servers[0].pid
    ends = [B1.underlay[1], B2.underlay[1]]
    before = {end: spis(A1, end) for end in ends}
    flows = trio.flows(A1, B2, 4)
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with Traffic(flows, tick=0.1) as traffic:
            os.kill(trio.lab.pid("charon", A1), signal.SIGKILL)
            trio.lab.start_charon(A1)
            trio.until(lambda: all(spis(A1, e) - before[e] for e in ends), "new tunnels", 60)
            time.sleep(1)
        assert losses(traffic.records) == []
        time.sleep(max(0.0, began + SERVERS["leader_ttl"] + 3 - time.monotonic()))
    finally:
        os.kill(pid, signal.SIGCONT)
    print(f"all is said again after {trio.until_up():.1f} s")
    assert member.status().leader is not None
    pairs = [(trio.pod_of(A1), trio.pod_of(other)) for other in (B1, B2, C1)]
    assert reach.silent(reach.ways(pairs), 10) == []


# Leaving


def test_a_third_cluster_leaves_and_the_others_notice_nothing(trio: Complaints) -> None:
    flows = [*trio.flows(A1, B2, 2), *trio.flows(B2, A1, 2, 21000)]
    before = {node.name: dump(node) for node in (A1, B2)}
    with Traffic(flows, tick=0.1) as traffic:
        trio.leave(C)
        trio.until_up(TWO)
        trio.until(
            lambda: not any(ours(node, *C.ranges, *C1.underlay) for node in (A1, B1, B2)),
            "nothing is left of it", 60, 1.0,
        )  # fmt: skip
    assert losses(traffic.records) == []
    for node in (A1, B2):
        assert _but_for_c(before[node.name].difference(dump(node))) == []
    trio.until(lambda: not _left(trio, C1), lambda: "\n".join(_left(trio, C1)), 60, 1.0)


def test_after_leaving_every_node_is_as_it_was(trio: Complaints) -> None:
    """Rules, routes, links, policies and states, all of them."""
    for which in (C, B):
        if trio.lab.members[which.name].status().federations:
            trio.leave(which)
    trio.lab.members["a"].ask(lambda client: client.delete("a", NAME, force=True))
    for node in trio.lab.nodes:
        trio.until(
            lambda n=node: not _left(trio, n),  # type: ignore[misc]
            lambda n=node: f"{n.name}:\n" + "\n".join(_left(trio, n)),  # type: ignore[misc]
            60, 1.0,
        )  # fmt: skip
    assert others_tunnel_works()
    assert reach.silent(trio.outside, 5) == []


def _left(world: Complaints, node: LabNode) -> list[str]:
    return [
        *world.before[node.name].difference(dump(node)),
        *(f"+ state to {state.target}" for state in states(node)),
    ]
