"""The federation agent's rules: its configuration, the order its parts are kept in, its
certificates, what it says of itself.
"""

from __future__ import annotations

import asyncio
import re
import stat
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path as File
from typing import Any, Literal, cast, get_args

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from federation.client import Client
from federation.desired import (
    DesiredNode,
    Exposure,
    Flows,
    Network,
    Path,
    Policy,
    RangeRoute,
    Tunnel,
)
from federation.node import (
    adopting,
    certificates,
    facts,
    firewall,
    knowing,
    measuring,
    moving,
    reporting,
)
from federation.node.agent import Agent
from federation.node.capabilities import Ability
from federation.node.certificates import Certificates, lacks
from federation.node.chains import Able
from federation.node.config import FederationAgentConfig
from federation.node.facts import Facts, KubeNode
from federation.node.findings import SETTLE, Book, finding
from federation.node.firewall import FirewallDriver
from federation.node.handover import besides
from federation.node.keeping import Apply, DataPlane, Done, holding
from federation.node.knowing import Known
from federation.node.metrics import Counts, Metrics
from federation.node.policies import for_kernel
from federation.node.probing import Mark, Window
from federation.node.reporting import PathHealth
from federation.node.tracking import unless_last
from federation.node.watching import Watching
from federation.plan import gateways
from federation.plan import paths as rules
from federation.plan.node import closed
from federation.plan.node import desired as plan
from federation.plan.paths import PathState
from hostnet import Kernel, KernelError
from hostnet.xfrm import State
from lab import programs
from netspace.config import load
from netspace.handover import HandedRoute, Handover
from netspace.messages.federation import Capability, NodeWord, View
from netspace.messages.federation_node import (
    FederationAgentStatus,
    FederationHealth,
    PartStatus,
    PathStatus,
    PeerHealth,
)
from netspace.problems import Problem
from tests.unit.federation_world import info, joined, node, peer, view

PublicKey = Any
EXAMPLE = programs.CLONE / "conf" / "federation-agent.yaml"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PATH = Path("f", "b", "gateway")


# Configuration


def test_the_example_is_a_working_configuration_of_defaults(tmp_path: File) -> None:
    bare = tmp_path / "bare.yaml"
    bare.write_text("cluster: prod\nnode: node-1\n")
    assert load(EXAMPLE, FederationAgentConfig) == load(bare, FederationAgentConfig)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cluster: Prod", "no cluster's name"),
        ("cluster: a\nnode: 'no name'", "no node's name"),
        ("cluster: a\nserver: {endpoints: ['https://h:1']}", "name all three"),
        ("cluster: a\nunderlay: {addresses: [nowhere]}", "nowhere"),
        ("cluster: a\npods: {ranges: [10.0.0.1/8]}", "host bits"),
        ("cluster: a\npods: {ranges: kubernetes}", "needs the section kubernetes"),
        ("cluster: a\nlisten: https://0.0.0.0:1", "write http://"),
        ("cluster: a\nkubernetes: {kubeconfig: /k, server: 'https://x'}", "leave server out"),
        ("cluster: a\nreport: 60", "less than or equal to 10"),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_place(
    tmp_path: File, text: str, why: str
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(text)
    with pytest.raises(Problem, match=why):
        load(file, FederationAgentConfig)


# What a node is


def test_the_ranges_of_a_kubernetes_node_are_those_of_both_families() -> None:
    node = KubeNode()
    assert facts.pod_ranges(node) == ()
    node.spec.pod_cidr = "10.1.0.0/24"
    assert facts.pod_ranges(node) == ("10.1.0.0/24",)
    node.spec.pod_cidrs = ["10.1.0.0/24", "fd00:1::/64"]
    assert facts.pod_ranges(node) == ("10.1.0.0/24", "fd00:1::/64")


def test_a_label_counts_with_its_value_or_with_any() -> None:
    labels = {"role": "gateway", "empty": ""}
    assert facts.labelled(labels, "role") and facts.labelled(labels, "empty")
    assert facts.labelled(labels, "role=gateway")
    assert not facts.labelled(labels, "role=") and not facts.labelled(labels, "other")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"plugins": [{"type": "calico"}, {"type": "portmap"}]}', "calico"),
        (b'{"type": "Weave_Net"}', "weave-net"),
        (b'{"plugins": []}', ""),
        (b'{"plugins": [{"type": 7}]}', ""),
        (b"[]", ""),
        (b"no json", ""),
    ],
)
def test_a_cni_is_named_by_its_first_plugin(data: bytes, name: str) -> None:
    assert facts.cni_in(data) == name


def entry(**other: object) -> View:
    """A view that has the node n0 as it last said it is."""
    own = info(0, [node(0, 0, **other)])
    return view(joined([peer(info(1))], own))


def found_by(section: dict[str, object], known: Facts | None) -> tuple[Facts, bool]:
    """What is found while Kubernetes is silent, and whether it is complete."""
    config = FederationAgentConfig.model_validate(
        {
            "cluster": "east",
            "node": "n0",
            "underlay": {"addresses": ["192.0.0.1"]},
            "cni": {"name": "calico"},
            "kubernetes": {"server": "https://127.0.0.1:1", "label": "gateway", "timeout": 0.2},
            **section,
        }
    )

    class Silent:
        async def run(self, netns: object, job: object) -> int:
            return 1500

    async def work() -> tuple[Facts, bool]:
        finder = facts.Finder(config, {}, cast(Kernel, Silent()))
        try:
            return await finder.find(known), finder.complete
        finally:
            await finder.close()

    return asyncio.run(work())


BY_KUBERNETES: dict[str, object] = {"pods": {"ranges": "kubernetes"}}


def test_while_kubernetes_was_always_silent_a_node_is_what_it_last_said() -> None:
    for gateway in (True, False):
        told = facts.remembered(entry(gateway=gateway), "n0")
        said, complete = found_by(BY_KUBERNETES, told)
        assert complete and said.gateway is gateway
        assert said.ranges == ("10.0.0.0/24", "fd00:0:0::/64")


def test_a_node_of_which_nothing_is_known_says_nothing_while_kubernetes_is_silent() -> None:
    assert facts.remembered(entry(), "n9") is None is facts.remembered(None, "n0")
    assert not found_by(BY_KUBERNETES, None)[1]
    assert not found_by({}, None)[1], "the label is not known"
    assert found_by({"gateway": True}, None)[1], "Kubernetes is asked for nothing"
    words: list[NodeWord | None] = [None, word({})]
    said: list[NodeWord] = []

    async def work() -> None:
        async def say(told: NodeWord) -> None:
            said.append(told)
            done.set()

        done = asyncio.Event()
        speaker = reporting.Speaker(lambda: words[0], say, 1.0)
        speaker.look()
        running = asyncio.create_task(speaker.run())
        await asyncio.sleep(0.3)
        assert said == []
        del words[0]
        speaker.look()
        await asyncio.wait_for(done.wait(), 0.5)
        running.cancel()

    asyncio.run(work())
    assert said == [word({})]


# The parts


class Parts:
    """A data plane whose parts write down what they are told, and fail when they are told to."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: set[str] = set()
        self.there: frozenset[Policy] = frozenset()
        self.policies: set[Policy] = set()
        self.plane = DataPlane()
        self.plane.blocked_by("policies", self._policies, lambda: self.there)
        self.plane.add("vxlan", self._part("vxlan"), lambda node: node.vxlans)
        self.plane.add("routes", self._part("routes"), lambda node: node.routes, routing=True)

    async def _policies(self, node: DesiredNode) -> Done:
        if "policies" in self.fails:
            raise KernelError("add", "a policy", "it is not there", "do something")
        self.there = frozenset(each for each in node.policies if each.action == "block")
        self.policies = set(node.policies)
        self.done.append(f"policies {len(node.policies)}")
        return Done(("changed",))

    def _part(self, name: str) -> Apply:
        async def apply(node: DesiredNode) -> Done:
            if name in self.fails:
                return Done((), (f"{name} cannot",))
            self.done.append(f"{name} {len(node.routes)}")
            return Done(("changed",))

        return apply

    def run(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        async def whole() -> None:
            running = asyncio.create_task(self.plane.run())
            try:
                await work()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        asyncio.run(whole())


BLOCK = Policy("block", ip_network("0.0.0.0/0"), ip_network("10.2.0.0/16"))
WAY = Policy(
    "out",
    ip_network("0.0.0.0/0"),
    ip_network("10.2.0.0/16"),
    mark=5 << 20,
    mask=0xF << 20,
    local="192.0.2.1",
    remote="192.0.2.2",
    reqid=7,
)
JOINED = DesiredNode(
    policies=(BLOCK,), routes=(RangeRoute(ip_network("10.2.0.0/16"), "192.0.2.2"),)
)


def test_what_blocks_is_there_before_routes_and_goes_after_them() -> None:
    parts = Parts()

    async def work() -> None:
        parts.plane.want(JOINED)
        assert await parts.plane.settled(JOINED, 5)
        parts.plane.want(DesiredNode())
        assert await parts.plane.settled(DesiredNode(), 5)

    parts.run(work)
    order = [line for line in parts.done if not line.startswith("vxlan")]
    assert order == ["policies 1", "routes 1", "routes 0", "policies 0"]


def test_what_leads_into_a_tunnel_stays_until_no_packet_is_marked_for_it() -> None:
    parts = Parts()
    marking = asyncio.Event()
    order: list[str] = []

    async def mark(node: DesiredNode) -> Done:
        if not node.flows:
            await marking.wait()
        order.append(f"marks {len(node.flows)}")
        return Done()

    async def keep(node: DesiredNode) -> Done:
        order.append(f"ways {sum(each.action == 'out' for each in node.policies)}")
        return await parts._policies(node)

    parts.plane = DataPlane()
    parts.plane.blocked_by("policies", keep, lambda: parts.there)
    parts.plane.add("firewall", mark, lambda node: node.flows)
    parts.plane.add("tunnels", parts._part("tunnels"), lambda node: node.policies)
    led = replace(
        JOINED, policies=(BLOCK, WAY), flows=(Flows("f", "b", (), (), (5,) * 64),), routes=()
    )
    left = replace(led, policies=(BLOCK,), flows=())

    async def work() -> None:
        parts.plane.want(led)
        assert await parts.plane.settled(led, 5)
        del order[:]
        done = parts.done.count("tunnels 0")
        parts.plane.want(left)
        while parts.done.count("tunnels 0") == done:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert order == [], "nothing is taken away while packets may be marked for it"
        marking.set()
        assert await parts.plane.settled(left, 5)
        assert order == ["marks 0", "ways 0"]

    parts.run(work)


def test_a_tunnel_ends_when_the_firewall_has_no_flow_take_it_any_more() -> None:
    marking = asyncio.Event()
    order: list[str] = []

    async def mark(node: DesiredNode) -> Done:
        if len(node.tunnels) == 1:
            await marking.wait()
        order.append(f"marks for {len(node.tunnels)}")
        return Done()

    async def keep(node: DesiredNode) -> Done:
        order.append(f"tunnels to {[tunnel.path.node for tunnel in node.tunnels]}")
        return Done()

    parts = Parts()
    parts.plane = DataPlane()
    parts.plane.add("firewall", mark, lambda node: node.tunnels)
    parts.plane.emptied_by("firewall", "tunnels", keep, lambda node: node.tunnels)
    one, two, three = (
        Tunnel(Path("f", "b", name), "192.0.2.1", f"192.0.2.{at}", at, 7, True)
        for at, name in enumerate(("one", "two", "three"), 2)
    )
    both = DesiredNode(tunnels=(one, two))

    async def work() -> None:
        parts.plane.want(both)
        assert await parts.plane.settled(both, 5)
        del order[:]
        left = DesiredNode(tunnels=(three,))
        parts.plane.want(left)
        while not order:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert order == ["tunnels to ['three', 'one', 'two']"]
        marking.set()
        assert await parts.plane.settled(left, 5)
        assert order[1:] == ["marks for 1", "tunnels to ['three']"]

    parts.run(work)


def test_of_two_ways_in_one_place_the_wanted_one_stands() -> None:
    new = replace(WAY, remote="192.0.2.3")
    held = holding(DesiredNode(policies=(BLOCK, new)), (BLOCK, WAY))
    assert held.policies == (BLOCK, new)
    elsewhere = replace(WAY, mark=6 << 20)
    assert holding(DesiredNode(policies=(BLOCK, new)), (elsewhere,)).policies == (
        BLOCK,
        new,
        elsewhere,
    )


def test_routes_wait_while_what_blocks_cannot_be_and_the_others_go_on() -> None:
    parts = Parts()
    parts.fails = {"policies"}

    async def work() -> None:
        parts.plane.want(JOINED)
        while "vxlan 1" not in parts.done:
            await asyncio.sleep(0)
        assert "routes 1" not in parts.done
        parts.fails.clear()
        assert await parts.plane.settled(JOINED, 5)
        assert "routes 1" in parts.done

    parts.run(work)


def test_a_block_stays_while_the_route_it_is_for_cannot_be_taken_away() -> None:
    parts = Parts()

    async def work() -> None:
        parts.plane.want(JOINED)
        assert await parts.plane.settled(JOINED, 5)
        parts.fails = {"routes"}
        parts.plane.want(DesiredNode())
        while not parts.plane.keepers["routes"].faults:
            await asyncio.sleep(0)
        assert parts.there == {BLOCK}
        parts.fails.clear()
        assert await parts.plane.settled(DesiredNode(), 5)
        assert parts.there == frozenset()

    parts.run(work)


def test_only_the_route_that_could_not_be_taken_away_keeps_its_block() -> None:
    """Else what is wrong with one peer for good would keep all others' blocks."""
    parts = Parts()
    third = replace(BLOCK, destination=ip_network("10.3.0.0/16"))
    both = replace(JOINED, policies=(BLOCK, third))
    left: list[tuple[Network, ...]] = [()]

    async def routes(node: DesiredNode) -> Done:
        return Done((), ("another route is there",) if node.routes or left[-1] else (), left[-1])

    parts.plane = DataPlane()
    parts.plane.blocked_by("policies", parts._policies, lambda: parts.there)
    parts.plane.add("routes", routes, lambda node: node.routes, routing=True)

    async def work() -> None:
        parts.plane.want(both)
        while not parts.plane.keepers["routes"].faults:
            await asyncio.sleep(0)
        parts.plane.want(replace(both, policies=(BLOCK,)))
        while parts.there != {BLOCK}:
            await asyncio.sleep(0)
        left.append((BLOCK.destination,))
        parts.plane.want(both)
        while parts.there != {BLOCK, third}:
            await asyncio.sleep(0)
        parts.plane.want(DesiredNode())
        while parts.there != {BLOCK}:
            await asyncio.sleep(0)
        left.append(())
        assert await parts.plane.settled(DesiredNode(), 5)
        assert parts.there == frozenset()

    parts.run(lambda: asyncio.wait_for(work(), 20))


def test_what_leads_into_a_tunnel_stays_until_no_flow_takes_it() -> None:
    parts = Parts()
    into = Policy("out", BLOCK.source, BLOCK.destination, mark=0x100000, mask=0xF00000, reqid=7)
    before = replace(JOINED, policies=(BLOCK, into))

    async def work() -> None:
        parts.plane.want(before)
        assert await parts.plane.settled(before, 5)
        parts.fails = {"routes"}
        parts.plane.want(DesiredNode(policies=(BLOCK,)))
        while not parts.plane.keepers["routes"].faults:
            await asyncio.sleep(0)
        assert parts.policies == {BLOCK, into}
        other = replace(into, remote="192.0.2.9")
        parts.plane.want(DesiredNode(policies=(BLOCK, other)))
        parts.fails.clear()
        assert await parts.plane.settled(DesiredNode(policies=(BLOCK, other)), 5)
        assert parts.policies == {BLOCK, other}

    parts.run(work)


def test_blocks_of_an_earlier_agent_go_last_too() -> None:
    parts = Parts()
    parts.there = frozenset({BLOCK})
    parts.plane = DataPlane()
    parts.plane.blocked_by("policies", parts._policies, lambda: parts.there)
    parts.plane.add("routes", parts._part("routes"), lambda node: node.routes, routing=True)

    async def work() -> None:
        parts.plane.want(DesiredNode())
        assert await parts.plane.settled(DesiredNode(), 5)

    parts.run(work)
    assert parts.done == ["policies 1", "routes 0", "policies 0"]


def test_a_part_is_left_alone_when_what_it_looks_at_stays() -> None:
    parts = Parts()

    async def work() -> None:
        parts.plane.want(JOINED)
        assert await parts.plane.settled(JOINED, 5)
        before = list(parts.done)
        parts.plane.want(replace(JOINED, peers=("192.0.2.9",)))
        await asyncio.sleep(0.01)
        assert parts.done == before
        parts.plane.look("vxlan")
        while len(parts.done) == len(before):
            await asyncio.sleep(0)
        assert parts.done[-1] == "vxlan 1"
        assert parts.plane.keepers["vxlan"].repaired == 1

    parts.run(work)


# Flows that move


def gateways_of(*names: str) -> DesiredNode:
    tunnels = tuple(
        Tunnel(Path("f", "b", name), "192.0.2.1", f"192.0.2.{at + 2}", at + 1, 7, True)
        for at, name in enumerate(names)
    )
    every = frozenset(tunnel.ordinal for tunnel in tunnels)
    local, remote = ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16")
    flows = Flows("f", "b", (local,), (remote,), gateways.buckets(every, every))
    return DesiredNode(tunnels=tunnels, flows=(flows,))


def failed(node: DesiredNode, *names: str) -> DesiredNode:
    paths = {
        tunnel.path: PathState(up=True, usable=tunnel.path.node not in names)
        for tunnel in node.tunnels
    }
    return moving.moved(node, paths)


def test_only_the_buckets_of_a_gateway_that_failed_move() -> None:
    before = gateways_of("one", "two", "three")
    after = failed(before, "two")
    for old, new in zip(before.flows[0].buckets, after.flows[0].buckets, strict=True):
        assert new == old if old != 2 else new in (1, 3)
    assert replace(after, flows=before.flows, tunnels=before.tunnels) == before
    assert failed(after) == before
    assert set(failed(before, "one", "two", "three").flows[0].buckets) == {0}
    assert failed(before) is before


def test_lost_probes_never_take_the_last_path_to_a_cluster_out() -> None:
    good = PathState(up=True, well=0.0, usable=True, ordinal=1)
    one, other, elsewhere = PATH, Path("f", "b", "other"), Path("f", "c", "other")

    def lost(paths: dict[Path, PathState], path: Path) -> PathState:
        observed = rules.observe(paths[path], "lost", 9.0, 1)
        return unless_last(paths, path, observed)

    assert not lost({one: good, other: good}, one).usable
    gone = PathState(up=True, lost=9)
    kept = lost({one: good, other: gone, elsewhere: good}, one)
    assert kept.usable, "another cluster's gateway is no other way"
    assert not lost({one: kept, other: good}, one).usable, "it goes once there is a better one"
    down = rules.observe(good, "down", 9.0, 1)
    assert not unless_last({one: good}, one, down).usable, "without a tunnel it carries nothing"
    said = measuring.tunnel_health(kept, None, "", 1)
    assert (said.state, said.usable) == ("down", True)


# The view


def test_who_has_heard_of_a_member_lately_is_told_though_the_view_is_the_same(
    tmp_path: File,
) -> None:
    """Else a member whom nothing happens to would be called silent."""
    changes: list[int] = []

    def heard(contact: int) -> View:
        return view(joined([peer(info(1), contact=contact)]))

    async def work() -> None:
        answers = iter([heard(100), heard(140)])
        again = asyncio.Event()

        async def ask(after: int) -> View:
            if (answer := next(answers, None)) is None:
                again.set()
                await asyncio.Event().wait()
            assert answer is not None
            return answer

        watching = Watching("c0", tmp_path / "view", ask, lambda: changes.append(1))
        running = asyncio.create_task(watching.run())
        await again.wait()
        running.cancel()
        assert watching.view == heard(140)

    asyncio.run(work())
    assert changes == [1]


def test_an_agent_that_starts_shuts_what_it_knew_before_it_looks_at_anything_else(
    tmp_path: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = view(joined([peer(info(1))]))
    config = FederationAgentConfig(cluster="c0", node="n0", state_dir=tmp_path)
    (tmp_path / "view.json").write_bytes(msgspec.json.encode(seen))
    done: list[object] = []

    async def shut(self: object, wanted: DesiredNode) -> None:
        done.append(wanted)

    async def find(kernel: object) -> Ability:
        done.append("looked")
        raise KernelError("find", "out", "it takes long", "wait")

    monkeypatch.setattr("federation.node.parts.Parts.shut", shut)
    monkeypatch.setattr("federation.node.capabilities.find", find)

    async def work() -> None:
        async with Client(["http://127.0.0.1:1"]) as client:
            with pytest.raises(KernelError):
                await Agent(config, client, cast(Kernel, None), {}).run()

    asyncio.run(work())
    assert done == [closed(seen), "looked"]


def test_tunnels_are_driven_though_certificates_cannot_be_looked_after(tmp_path: File) -> None:
    config = FederationAgentConfig(cluster="c0", node="n0", state_dir=tmp_path)

    class Broken(Certificates):
        async def keep(self, authorities: object, addresses: object) -> bool:
            raise OSError(39, "Directory not empty")

    async def work() -> None:
        async with Client(["http://127.0.0.1:1"]) as client:
            agent = Agent(config, client, cast(Kernel, None), {})
            agent.watching.view = view(joined([peer(info(1))]))
            agent.certificates = Broken(tmp_path, "c0", "n0", Authority().sign)
            with pytest.raises(OSError):
                await agent._certificates()
            assert agent._certified.is_set()

    asyncio.run(work())


def test_rules_that_a_kernel_cannot_have_are_told_where_they_would_be_needed() -> None:
    class Bare(FirewallDriver):
        def _keep(
            self, net: object, last: object, desired: DesiredNode
        ) -> tuple[DesiredNode, list[str]]:
            self._ability = firewall.Ability(able=Able(sctp=False))
            return desired, []

    class Here:
        async def run(self, netns: object, job: Callable[[object], object]) -> object:
            return job(None)

    driver = Bare(cast(Kernel, Here()))
    asyncio.run(driver(DesiredNode()))
    assert driver.left_out == ""
    span = ("sctp", 9, 9)
    asyncio.run(driver(DesiredNode(exposures=(Exposure("f", "c1", (), (span,)),))))
    assert "SCTP" in driver.left_out


# What an earlier agent left


def test_tunnels_that_are_there_are_taken_up_with_the_ordinals_they_have() -> None:
    tunnel = Tunnel(PATH, "192.0.2.1", "192.0.2.2", 3, 7, False)
    node = DesiredNode(mark=0xF00000, tunnels=(tunnel,))

    def state(target: str, reqid: int, mark: int, spi: int = 9) -> State:
        ends = ip_address("192.0.2.1"), ip_address(target)
        return State(*ends, 50, spi, reqid, mark, 0xF00000 if mark else 0, 0, 0)

    ours = state("192.0.2.2", 7, 0)
    others = [
        state("192.0.2.3", 7, 0),
        state("192.0.2.2", 8, 0),
        state("192.0.2.2", 7, 15 << 20),
    ]
    probes = replace(WAY, port=4791, protocol=17)
    led = [for_kernel(each) for each in (BLOCK, WAY, probes, replace(WAY, mark=0))]
    foreign = [replace(each, priority=1) for each in led]
    assert adopting.adopted(node, others, led, 1.0) == {}
    assert adopting.adopted(node, [*others, ours], foreign, 1.0) == {}
    [(path, taken)] = adopting.adopted(node, [*others, ours], [*foreign, *led], 1.0).items()
    assert (path, taken.ordinal, taken.usable) == (PATH, 5, True)


def test_what_stands_longer_than_the_rest_is_known_by_the_band_of_its_priorities() -> None:
    ours = [for_kernel(BLOCK), for_kernel(WAY)]
    assert adopting.standing([*ours, *(replace(each, priority=1) for each in ours)]) == [BLOCK, WAY]
    assert adopting.standing([replace(ours[0], block=False)]) == []


def test_pods_routes_that_are_there_stay_as_they_are_beside_those_that_are_missing() -> None:
    def route(text: str, mtu: int = 0) -> HandedRoute:
        return HandedRoute(destination=text, mtu=mtu)

    there = Handover(routes=(route("10.2.0.0/16", 1446),), local=("10.1.0.0/16",))
    wanted = Handover(
        routes=(route("10.2.0.0/16"), route("10.3.0.0/16")), local=("10.1.0.0/16", "10.9.0.0/16")
    )
    found = besides(there, wanted)
    assert found.routes == (route("10.2.0.0/16", 1446), route("10.3.0.0/16"))
    assert found.local == ("10.1.0.0/16", "10.9.0.0/16")
    assert besides(found, wanted) == found
    assert besides(Handover(), wanted) == wanted


# Certificates


class Authority:
    def __init__(self, name: str = "east") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self.made(self.subject, self.key.public_key(), (), timedelta(3650))
        self.pem = self.certificate.public_bytes(Encoding.PEM).decode()
        self.asked: list[x509.CertificateSigningRequest] = []
        self.why: Problem | None = None

    def made(
        self,
        subject: x509.Name,
        key: PublicKey,
        addresses: tuple[str, ...],
        life: timedelta,
        now: datetime = NOW,
    ) -> x509.Certificate:
        names = [x509.IPAddress(ip_address(text)) for text in addresses]
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self.subject)
        made = made.public_key(key).serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + life)
        made = made.add_extension(x509.SubjectAlternativeName(names), False) if names else made
        return made.sign(self.key, hashes.SHA256())

    async def sign(self, federation: str, csr: str) -> str:
        if self.why is not None:
            raise self.why
        asked = x509.load_pem_x509_csr(csr.encode())
        self.asked.append(asked)
        names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = tuple(map(str, names.get_values_for_type(x509.IPAddress)))
        certificate = self.made(asked.subject, asked.public_key(), addresses, timedelta(30))
        return certificate.public_bytes(Encoding.PEM).decode()


def kept(folder: File, authority: Authority, now: datetime = NOW) -> Certificates:
    made = Certificates(folder, "east", "node-1", authority.sign, lambda: now)
    asyncio.run(made.keep({"f": authority.pem}, ("192.0.2.1",)))
    return made


def test_a_node_asks_for_its_own_name_and_keeps_its_key_to_itself(tmp_path: File) -> None:
    authority = Authority()
    made = kept(tmp_path, authority)
    [asked] = authority.asked
    assert asked.subject.rfc4514_string() == "CN=node-1,OU=east,O=netspace:federation"
    assert stat.S_IMODE((tmp_path / "f" / "node.key").stat().st_mode) == 0o600
    assert made.findings == [] and "PRIVATE" not in repr(made.credentials["f"])


def test_a_certificate_that_is_there_is_used_until_two_thirds_of_its_life(tmp_path: File) -> None:
    authority = Authority()
    first = kept(tmp_path, authority).credentials["f"]
    assert kept(tmp_path, authority, NOW + timedelta(19)).credentials["f"] == first
    assert len(authority.asked) == 1
    authority.why = Problem("unavailable", "nobody answers")
    late = kept(tmp_path, authority, NOW + timedelta(21))
    assert late.credentials["f"] == first, "the old one counts until there is another"
    assert [(each.cause, each.verdict) for each in late.findings] == [("certificate", "warning")]
    authority.why = None
    assert kept(tmp_path, authority, NOW + timedelta(21)).credentials["f"] != first


def test_an_expired_certificate_is_a_fault_and_a_clock_that_is_off_is_named(
    tmp_path: File,
) -> None:
    authority = Authority()
    kept(tmp_path, authority)
    authority.why = Problem("unavailable", "nobody answers")
    expired = kept(tmp_path, authority, NOW + timedelta(40))
    assert [(each.cause, each.verdict) for each in expired.findings] == [("certificate", "fault")]
    before = kept(tmp_path, authority, NOW - timedelta(1))
    assert [each.cause for each in before.findings] == ["clock"]


def test_another_authority_or_other_addresses_need_another_certificate(tmp_path: File) -> None:
    one, other = Authority(), Authority()
    certificate = one.made(one.subject, one.key.public_key(), ("192.0.2.1",), timedelta(30))
    assert lacks(certificate, one.certificate, ["192.0.2.1"], NOW) == ""
    assert "authority" in lacks(certificate, other.certificate, ["192.0.2.1"], NOW)
    assert "addresses" in lacks(certificate, one.certificate, ["192.0.2.2"], NOW)
    assert lacks(None, one.certificate, [], NOW)


def test_what_is_signed_for_another_key_is_not_taken(tmp_path: File) -> None:
    authority = Authority()

    async def careless(federation: str, csr: str) -> str:
        return authority.pem

    made = Certificates(tmp_path, "east", "node-1", careless, lambda: NOW)
    asyncio.run(made.keep({"f": authority.pem}, ()))
    assert made.credentials == {}
    assert "no certificate for the node's key" in str(made.findings[0])


def test_what_another_authority_signed_leaves_the_pair_that_is_there(tmp_path: File) -> None:
    authority, other = Authority(), Authority("other")
    first = kept(tmp_path, authority).credentials["f"]
    made = Certificates(tmp_path, "east", "node-1", other.sign, lambda: NOW + timedelta(21))
    asyncio.run(made.keep({"f": authority.pem}, ("192.0.2.1",)))
    assert made.credentials["f"] == first
    [found] = made.findings
    assert found.verdict == "warning" and "not of the cluster's authority" in found.found


def test_a_federation_that_is_gone_leaves_no_key(tmp_path: File) -> None:
    authority = Authority()
    made = kept(tmp_path, authority)
    (tmp_path / "f" / "node.key.new").write_text("half of one")
    asyncio.run(made.keep({}, ()))
    assert made.credentials == {} and list(tmp_path.iterdir()) == []


def test_a_request_names_the_federations_organization() -> None:
    assert certificates.ORGANIZATION == "netspace:federation"


# What it says of itself


def word(paths: dict[Path, PathHealth]) -> NodeWord:
    return reporting.word_of("n", Facts(("192.0.2.1",)), ("vxlan",), paths, ())


def test_figures_wait_and_states_are_told_at_once() -> None:
    up = {PATH: PathHealth("up", True, 0.0, 0.001, 1446)}
    worse = {PATH: PathHealth("up", True, 0.4, 0.1, 1446)}
    down = {PATH: PathHealth("down", False, 1.0, None, 1446, "lost")}
    assert reporting.urgent(None, word(up))
    assert not reporting.urgent(word(up), word(worse))
    assert reporting.urgent(word(up), word(down))
    assert reporting.urgent(word(up), word({}))


def test_where_paths_are_too_many_the_worst_are_told() -> None:
    many = {
        Path("f", "b", f"n{at:05}"): PathHealth("up", True) for at in range(reporting.MOST_PATHS)
    }
    bad = Path("f", "b", "z-last")
    told = word({**many, bad: PathHealth("down", why="x" * 9000)})
    assert len(told.paths) == reporting.MOST_PATHS
    [found] = [path for path in told.paths if path.node == "z-last"]
    assert len(found.why) == reporting.LONGEST_WHY


@given(st.lists(st.sampled_from(["answered", "lost"]), max_size=30))
def test_a_mesh_path_is_down_exactly_while_enough_probes_in_a_row_are_lost(
    events: list[str],
) -> None:
    window = Window(0.2, 100)
    for at, event in enumerate(events):
        window.sent(Mark(at, bytes(16)), at)
        if event == "lost":
            window.lost(Mark(at, bytes(16)))
        else:
            window.answered(Mark(at, bytes(16)), at + 0.01)
    health = measuring.mesh_health(window, None, 3)
    row = next((at for at, event in enumerate(reversed(events)) if event == "answered"), None)
    lost = len(events) if row is None else row
    assert (health.state == "down") == (lost >= 3)


def test_a_tunnel_says_why_it_carries_nothing() -> None:
    said = measuring.tunnel_health(PathState(), None, "timeout: no answer", 3)
    assert (said.state, said.why) == ("down", "timeout: no answer")
    said = measuring.tunnel_health(PathState(up=True, lost=7), None, "", 3)
    assert (said.state, said.usable) == ("down", False) and "7 probes" in said.why
    assert measuring.tunnel_health(PathState(up=True), None, "", 3).state == "connecting"
    assert measuring.tunnel_health(PathState(True, 0, 1.0, True, 1446), None, "", 3).usable


def test_one_finding_tells_that_none_of_a_clusters_paths_works() -> None:
    paths = {Path("f", "b", f"n{at}"): PathHealth("down", why="timeout") for at in range(3)}
    [found] = measuring.path_findings(paths, {}, {"f": "open UDP 500"})
    assert found.cause == "port" and "none of 3 paths" in found.found and found.do
    paths[Path("f", "b", "n9")] = PathHealth("up", True, 0.0, 0.001, 1300)
    wished = {Path("f", "b", "n9"): 1422}
    found_now = measuring.path_findings(paths, wished, {"f": ""})
    assert sorted(each.cause for each in found_now) == ["mtu", "path", "path", "path"]


def test_a_kernel_without_esp_is_a_fault_only_where_tunnels_are_wanted() -> None:
    known = Known(ability=Ability(frozenset(), no_esp="no module"))
    assert knowing.findings(known, {}, (), 0.0) == []


@pytest.mark.parametrize(
    ("setting", "layouts", "can", "expected"),
    [
        (False, ["distributed"], "ipsec", True),
        (True, ["distributed"], "vxlan", False),
        (False, ["centralised"], "ipsec", False),
        (True, ["centralised"], "ipsec", True),
        (False, ["centralised", "distributed"], "ipsec", True),
        (True, [], "ipsec", False),
    ],
)
def test_a_node_says_it_is_a_gateway_where_it_is_one_in_any_federation(
    setting: bool, layouts: list[str], can: Capability, expected: bool
) -> None:
    known = Known(
        facts=Facts(addresses=("192.0.0.1",), gateway=setting),
        ability=Ability(frozenset({can})),
        view=view(
            *(
                joined([peer(info(1))], own=info(0, layout=layout), name=f"f{at}")
                for at, layout in enumerate(layouts)
            )
        ),
    )
    assert knowing.gateway(known, "n0") is expected


def test_nodes_that_a_mesh_cannot_reach_for_their_family_are_told() -> None:
    nodes = [node(1, 0, addresses=["192.0.1.1"]), node(1, 1, addresses=["fd01::2"])]
    told = view(joined([peer(info(1, nodes), "homogeneous")]))
    addresses = ("192.0.0.1", "fd00::1")
    known = Known(
        facts=Facts(addresses=addresses),
        ability=Ability(frozenset({"vxlan", "ipv6"})),
        view=told,
        desired=plan(told, "n0"),
    )
    [found] = [f for f in knowing.findings(known, {}, (), 0.0) if f.cause == "underlay"]
    assert found.verdict == "fault"
    assert (
        nodes[1].name in found.found and "IPv4" in found.found and nodes[0].name not in found.found
    )


def test_a_finding_is_new_once_however_its_words_change() -> None:
    book = Book()
    first = finding("clock", "cluster b", "60 s apart", "warning")
    assert book.put("node", [first], 0.0) == ([first], [])
    later = finding("clock", "cluster b", "61 s apart", "warning")
    assert book.put("node", [later], 1.0) == ([], [])
    assert book.all() == [later]
    assert book.put("node", [], 2.0) == ([], [later])


def test_what_comes_and_goes_while_clusters_join_is_told_once_it_has_stood_for_a_while() -> None:
    book = Book()
    found = finding("port", "cluster b", "none of 2 paths works")
    assert book.put("node", [found], 0.0) == ([], [])
    assert book.put("node", [], SETTLE - 1) == ([], [])
    assert book.put("node", [found], SETTLE) == ([], [])
    assert book.put("node", [found], 2 * SETTLE - 0.1) == ([], [])
    assert book.all() == [found], "whoever asks is told at once"
    assert book.put("node", [found], 2 * SETTLE) == ([found], [])
    assert book.put("node", [found], 2 * SETTLE + 1) == ([], [])
    assert book.put("node", [], 2 * SETTLE + 2) == ([], [found])


# Metrics


def test_the_page_has_every_metric_with_its_type_and_labels() -> None:
    page = (programs.CLONE / "docs" / "federation-node.md").read_text()
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(
            r"^\| `(netspace_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE
        )
    }
    told: dict[str, tuple[str, set[str]]] = {}
    kinds: dict[str, str] = {}
    for line in Metrics(lambda: STATUS, Counts()).exposition().decode().splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kinds_of = line.split()
            kinds[name] = kinds_of
        elif not line.startswith(("#", "netspace_process", "python")):
            name, _, labels = line.split(" ")[0].rstrip("}").partition("{")
            told[name] = (kinds[name], set(re.findall(r'(\w+)="', labels)))
    assert told == documented


def path_status(kind: Literal["esp", "vxlan"]) -> PathStatus:
    return PathStatus(
        node="n", kind=kind, state="up", usable=True, loss=0.0, rtt=0.001, mtu=1400, buckets=64
    )


STATUS = FederationAgentStatus(
    version="1",
    pid=1,
    since="",
    cluster="east",
    node="n",
    addresses=[],
    ranges=[],
    gateway=True,
    cni="",
    capabilities=[],
    server="",
    word="",
    view=1,
    view_age=1.0,
    federations=[
        FederationHealth(
            name="f",
            certificate_until=1,
            peers=[
                PeerHealth(
                    cluster=kind,
                    kind="homogeneous" if kind == "vxlan" else "heterogeneous",
                    contact=1,
                    fault="",
                    ranges=[],
                    paths=[path_status(kind)],
                )
                for kind in get_args(Literal["esp", "vxlan"])
            ],
        )
    ],
    parts=[PartStatus(name="vxlan", rounds=1, changes=0, error="", last=[])],
    findings=[],
    probes_answered=1,
    memory_mib=1.0,
)
