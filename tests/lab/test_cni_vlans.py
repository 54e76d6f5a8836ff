"""Pods on VLANs, and a node made ready for them: bonds, VLAN interfaces, report, old releases."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.l2 import ARP, Dot1Q

from cni_plugins import add, node_config
from cni_plugins.agent import prepare
from cni_plugins.attachment import Host
from cni_plugins.delete import delete
from cni_plugins.protocol import Invocation
from cni_plugins.reporting import Outcome
from cni_plugins.results import Result
from hostnet import Kernel, Netns, Observer, bond_state, delete_link, ensure_vlan, get_link, run_in
from ipam_server.client import Client
from netspace.messages import NewPool
from netspace.problems import Problem
from tests.agents import WAYS, by
from tests.node_fixtures import CLUSTER
from tests.nodes import IpamServer, Node, dual_stack, links, pod_args, used
from tests.wires import InjectedError, Tap, fail_after, namespaces, wire

NETWORK = dual_stack(1, parent="bond0", vlan=910)


class Lab:
    """A node with the cards `card1` and `card2`, both on a wire to `other`."""

    def __init__(self, server: IpamServer, node: Node, other: Netns) -> None:
        self.server, self.node, self.other = server, node, other
        config = json.loads(node.config.read_text())
        config["bonds"] = [{"name": "bond0", "slaves": ["card1", "card2"], "primary": "card1"}]
        node.config.write_text(json.dumps(config))

    def prepare(self, url: str | None = None) -> tuple[Outcome, list[str]]:
        """What `netspace-agent prepare` comes to, and what it says."""
        config = node_config.load(self.node.config)
        said: list[str] = []

        async def work(host: Host) -> Outcome:
            async with Client([url or self.server.url], 2) as client:
                return await prepare(config, Kernel(), client, host, said.append)

        return self.node.inside(work), said

    def add(self, pod: Netns, observer: Observer | None = None, **conf: Any) -> Result:
        call = self.node.invocation(
            "ADD", "c1", pod, self.node.conflist(**conf), args=pod_args("web-0")
        )
        return self.node.inside(lambda host: add.add(host, call), observer=observer)

    def delete(self) -> None:
        call = self.node.invocation("DEL", "c1", None, self.node.conflist())
        self.node.inside(lambda host: delete(host, call, "netspace"))


@pytest.fixture
def lab(server: IpamServer, tmp_path: Path) -> Iterator[Lab]:
    with namespaces(2) as (host, other):
        wire(host, "card1", other, "far1")
        wire(host, "card2", other, "far2")
        yield Lab(server, Node(host, tmp_path, CLUSTER, server.url), other)


def test_prepare_makes_bonds_and_vlans_reports_the_node_and_may_be_repeated(lab: Lab) -> None:
    outcome, said = lab.prepare()
    assert outcome == Outcome(failed=False, server_away=False), said
    assert links(lab.node.netns) == ["bond0", "bond0.910", "card1", "card2"]
    state = run_in(lab.node.netns, lambda net: bond_state(net, "bond0"))
    assert (state.mode, state.primary) == ("active-backup", "card1")
    assert any("bond bond0: made" in line for line in said)
    assert any("VLAN 910 is bond0.910, made" in line for line in said)
    node = lab.server.ask(lambda client: client.node(CLUSTER, "node-1"))
    cards = {link.name: link for link in node.links}
    assert sorted(cards["bond0"].slaves) == ["card1", "card2"]
    assert (cards["bond0.910"].parent, cards["bond0.910"].vlan) == ("bond0", 910)
    again, said = lab.prepare()
    assert again == Outcome()
    assert any("bond bond0: there already" in line for line in said)


def test_prepare_makes_the_bonds_without_a_server_and_says_so(lab: Lab, tmp_path: Path) -> None:
    outcome, said = lab.prepare(f"unix://{tmp_path}/nobody.sock")
    assert outcome == Outcome(failed=False, server_away=True)
    assert links(lab.node.netns) == ["bond0", "card1", "card2"]
    assert any(line.startswith("server: ") and "nobody.sock" in line for line in said)


def test_prepare_names_a_card_that_is_missing_and_goes_on(lab: Lab) -> None:
    config = json.loads(lab.node.config.read_text())
    config["bonds"][0]["slaves"] = ["card1", "nosuch"]
    del config["bonds"][0]["primary"]
    lab.node.config.write_text(json.dumps(config))
    outcome, said = lab.prepare()
    assert outcome.failed
    assert any("nosuch" in line for line in said)
    assert any(line.startswith("report: node node-1") for line in said)


def test_prepare_replays_what_a_del_left_pending(lab: Lab) -> None:
    lab.prepare()
    with namespaces(1) as (pod,):
        lab.add(pod)
        lab.server.stop()
        try:
            lab.delete()
            assert links(pod) == []
        finally:
            lab.server.start()
        assert used(lab.server, CLUSTER) == 1
        _, said = lab.prepare()
        assert "pending releases: 1 done, 0 left" in said
        assert (used(lab.server, CLUSTER), lab.node.files()) == (0, [])


def test_the_first_pod_makes_its_vlan_and_its_frames_carry_the_tag(lab: Lab) -> None:
    lab.prepare()
    run_in(lab.node.netns, lambda net: ensure_vlan(net, "bond0", 911))
    with namespaces(1) as (pod,), Tap(lab.other, "far1") as tap:
        result = lab.add(pod)
        frames = tap.frames(5, lambda seen: any(ARP in frame for frame in seen))
        announced = [frame for frame in frames if ARP in frame]
        assert announced
        assert {frame[Dot1Q].vlan for frame in announced} == {910}
        address = result.ips[0].address.partition("/")[0]
        assert {frame[ARP].psrc for frame in announced} == {address}
        lab.delete()
        assert (links(pod), lab.node.files(), used(lab.server, CLUSTER)) == ([], [], 0)


def test_a_failure_after_every_single_change_leaves_no_vlan_that_the_add_made(lab: Lab) -> None:
    lab.prepare()
    changes: list[str] = []
    run_in(lab.node.netns, _without_vlan)
    with namespaces(1) as (pod,):
        lab.add(pod, changes.append)
        lab.delete()
    before = ["bond0", "card1", "card2"]
    for number in range(len(changes)):
        run_in(lab.node.netns, _without_vlan)
        with namespaces(1) as (pod,):
            with pytest.raises(InjectedError):
                lab.add(pod, fail_after(number))
            left = (links(pod), lab.node.files(), used(lab.server, CLUSTER))
            assert left == ([], [], 0), f"after change {number}, {changes[number]}"
            assert links(lab.node.netns) == before, f"after {number}, {changes[number]}"


@pytest.mark.parametrize("way", WAYS)
def test_the_executable_says_the_whole_result_of_a_pod_on_a_vlan_over_a_bond(
    lab: Lab, way: str
) -> None:
    lab.prepare()
    with namespaces(1) as (pod,), by(way, lab.node) as node:
        answer = node.call("ADD", "c1", pod, node.conflist(), args=pod_args("web-0"))
        assert answer.status == 0, answer
        assert [interface["name"] for interface in answer.json["interfaces"]] == ["eth0"]
        assert (len(answer.json["ips"]), len(answer.json["routes"])) == (2, 2)
        vlan = run_in(node.netns, lambda net: get_link(net, "bond0.910"))
        assert run_in(pod, lambda net: get_link(net, "eth0").parent) == vlan.index
        checked = node.conflist(prevResult=answer.json)
        assert node.call("CHECK", "c1", pod, checked).status == 0
        assert node.call("DEL", "c1", pod, node.conflist()).status == 0
        assert (links(pod), node.records(), used(lab.server, CLUSTER)) == ([], [], 0)


def test_a_network_without_a_vlan_lies_on_the_bond_itself(lab: Lab) -> None:
    lab.prepare()
    declare_network(lab.server, "untagged", 2, vlan=None)
    with namespaces(1) as (pod,), Tap(lab.other, "far1") as tap:
        lab.add(pod, ipam={**lab.node.conflist()["ipam"], "netspace": "untagged"})
        bond = run_in(lab.node.netns, lambda net: get_link(net, "bond0"))
        assert run_in(pod, lambda net: get_link(net, "eth0").parent) == bond.index
        frames = tap.frames(5, lambda seen: any(ARP in frame for frame in seen))
        assert [frame for frame in frames if ARP in frame and Dot1Q not in frame]
        lab.delete()
    with pytest.raises(Problem, match="vlan"):
        declare_network(lab.server, "zero", 3, vlan=0)


def test_a_pod_has_an_interface_on_each_of_several_vlans(lab: Lab) -> None:
    lab.prepare()
    declare_network(lab.server, "storage", 4, vlan=911)
    conf = lab.node.conflist()
    second = lab.node.conflist(name="storage", ipam={**conf["ipam"], "netspace": "storage"})
    with namespaces(1) as (pod,):
        calls = [("eth0", conf), ("net1", second)]
        for ifname, chosen in calls:
            call = lab.node.invocation(
                "ADD", "c1", pod, chosen, ifname=ifname, args=pod_args("web-0")
            )
            lab.node.inside(partial(_add, call))
        parents = run_in(pod, lambda net: [get_link(net, name).parent for name, _ in calls])
        vlans = run_in(
            lab.node.netns, lambda net: [get_link(net, f"bond0.{n}").index for n in (910, 911)]
        )
        assert parents == vlans
        for ifname, chosen in reversed(calls):
            call = lab.node.invocation("DEL", "c1", pod, chosen, ifname=ifname)
            lab.node.inside(partial(_delete, call))
        assert (links(pod), lab.node.files(), used(lab.server, CLUSTER)) == ([], [], 0)


def test_another_ipam_plugin_takes_the_vlan_of_the_conflist(lab: Lab, tmp_path: Path) -> None:
    lab.prepare()
    program = lab.node.folder / "bin" / "fixed"
    answer = json.dumps({"cniVersion": "1.0.0", "ips": [{"address": "10.5.0.5/24"}]})
    program.write_text(f"#!/bin/sh\n[ $CNI_COMMAND = ADD ] && echo '{answer}'\nexit 0\n")
    program.chmod(0o755)
    with namespaces(1) as (pod,):
        result = lab.add(
            pod, master="bond0", vlan=915, ipam={"type": "fixed"}, config=str(lab.node.config)
        )
        assert [ip.address for ip in result.ips] == ["10.5.0.5/24"]
        vlan = run_in(lab.node.netns, lambda net: get_link(net, "bond0.915"))
        assert run_in(pod, lambda net: get_link(net, "eth0").parent) == vlan.index
        lab.delete()
        assert links(pod) == []


def test_many_adds_at_once_share_the_vlan_that_the_first_one_makes(lab: Lab) -> None:
    lab.prepare()
    run_in(lab.node.netns, _without_vlan)
    with namespaces(8) as sandboxes:
        calls = [
            lab.node.invocation(
                "ADD", f"c{number}", pod, lab.node.conflist(), args=pod_args(f"web-{number}")
            )
            for number, pod in enumerate(sandboxes)
        ]

        async def all_at_once(host: Host) -> list[Result]:
            return await asyncio.gather(*(add.add(host, call) for call in calls))

        async def all_away(host: Host) -> None:
            await asyncio.gather(*(delete(host, call, "netspace") for call in calls))

        results = lab.node.inside(all_at_once)
        assert len({result.ips[0].address for result in results}) == 8
        assert [links(pod) for pod in sandboxes] == [["eth0"]] * 8
        lab.node.inside(all_away)
    assert used(lab.server, CLUSTER) == 0


def declare_network(server: IpamServer, name: str, number: int, vlan: int | None) -> None:
    """A further network on the bond, with a pool of its name."""
    network = dual_stack(number, name=name, parent="bond0", vlan=vlan)
    pool = NewPool(name=name, kind="netspace", network=name, size="8", cooldown=0, namespaces=["*"])
    server.ask(lambda client: client.create_network(CLUSTER, network))
    server.ask(lambda client: client.create_pool(CLUSTER, pool))


async def _add(call: Invocation, host: Host) -> Result:
    return await add.add(host, call)


async def _delete(call: Invocation, host: Host) -> None:
    await delete(host, call, "netspace")


def _without_vlan(net: Any) -> None:
    delete_link(net, "bond0.910")
