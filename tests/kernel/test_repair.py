"""A node heals what somebody does to its links and its pods', within two seconds, and says so."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import msgspec
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from cni_plugins.attachment import Host
from cni_plugins.node_state.report import Report
from cni_plugins.records import Key, Record, Records
from cni_plugins.results import encode_result
from hostnet import (
    KernelError,
    Net,
    delete_link,
    forget_filter,
    get_link,
    read_sysctl,
    run_in,
    set_down,
    set_mtu,
    set_up,
    write_sysctl,
)
from netspace.messages import Network
from netspace.upkeep import Dispute
from tests.nodes import Node, netns_path
from tests.repairing import (
    Pod,
    add_pod,
    as_before,
    delete_pod,
    has_link,
    keeping,
    kept,
    look,
    node_state,
    reconciled,
)
from tests.wires import Tap, namespaces, send_from, send_here, wire


@pytest.fixture
def pod(node: Node) -> Iterator[Pod]:
    with namespaces(1) as (netns,):
        made = add_pod(node, "c1", netns)
        reconciled(node)
        yield made
        delete_pod(node, made)


def test_a_node_that_is_as_it_should_be_is_not_touched(node: Node, pod: Pod) -> None:
    steps: list[str] = []
    report = reconciled(node, steps.append)
    assert (steps, report.changes, report.failures) == ([], [], [])


def test_an_interface_deleted_inside_its_pod_is_built_again(
    node: Node, pod: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[logging.LogRecord]:
        return [r for r in caplog.records if getattr(r, "found", "") == "it was missing"]

    with kept(node) as keeper, caplog.at_level(logging.WARNING):
        run_in(pod.netns, lambda net: delete_link(net, "eth0"))
        keeper.heals(lambda: as_before(node, pod) and bool(told()))
    assert [vars(r)["subject"] for r in told()] == ["interface eth0 of pod default/c1"]
    assert node.call("CHECK", "c1", pod.netns, _checked(node, pod)).status == 0


def test_an_interface_that_is_built_again_is_announced(node: Node, pod: Pod) -> None:
    with kept(node), Tap(node.netns, "up0") as tap:
        run_in(pod.netns, lambda net: delete_link(net, "eth0"))
        seen = tap.frames(5, lambda frames: any(ARP in frame for frame in frames))
    addresses = {address.partition("/")[0] for address in pod.before.addresses}
    told = {frame[ARP].psrc for frame in seen if ARP in frame}
    assert told and told <= addresses


def test_a_parent_set_down_is_set_up(node: Node, pod: Pod) -> None:
    with kept(node) as keeper:
        run_in(node.netns, lambda net: set_down(net, get_link(net, "up0")))
        keeper.heals(lambda: run_in(node.netns, lambda net: get_link(net, "up0").up))


class Harm:
    """Stands at the end of a look, where the way to Services does, and does harm the first time."""

    def __init__(self, harm: Callable[[], None]) -> None:
        self._harm = harm
        self._done = False

    async def __call__(
        self, networks: Sequence[Network] | None, records: Sequence[Record]
    ) -> list[str]:
        if not self._done:
            self._done = True
            await asyncio.to_thread(self._harm)
            # The kernel's word of it comes while the look goes on.
            await asyncio.sleep(0.3)
        return []

    async def differ(self) -> bool:
        return False

    def rebuilt(self, key: Key) -> None:
        pass

    def links(self) -> frozenset[str]:
        return frozenset()


def test_what_is_done_to_a_link_during_the_first_look_is_healed(node: Node, pod: Pod) -> None:
    def down() -> None:
        run_in(node.netns, lambda net: set_down(net, get_link(net, "up0")))

    def up() -> bool:
        return run_in(node.netns, lambda net: get_link(net, "up0")).up

    with keeping(node.inside, lambda host: node_state(node, host, None, Harm(down))) as keeper:
        keeper.heals(up)


def test_a_parents_mtu_changed_by_hand_comes_back_and_so_do_its_pods(node: Node, pod: Pod) -> None:
    with kept(node) as keeper:
        run_in(node.netns, lambda net: set_mtu(net, get_link(net, "up0"), 1300))
        keeper.heals(lambda: as_before(node, pod))
        assert run_in(node.netns, lambda net: get_link(net, "up0").mtu) == 1500


def test_an_mtu_that_a_pod_gave_itself_stays(node: Node, pod: Pod) -> None:
    run_in(pod.netns, lambda net: set_mtu(net, get_link(net, "eth0"), 1300))
    assert reconciled(node).failures == []
    live = look(node, pod.netns)
    assert live is not None
    assert live.mtu == 1300
    run_in(pod.netns, lambda net: set_mtu(net, get_link(net, "eth0"), 1500))


def test_a_setting_changed_by_hand_is_set_again(
    node: Node, pod: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    with kept(node) as keeper, caplog.at_level(logging.WARNING):
        run_in(node.netns, lambda net: write_sysctl(net, "0", "ipv4", "conf", "up0", "arp_ignore"))
        keeper.heals(lambda: _arp_ignore(node) == "1")
        keeper.heals(
            lambda: any("arp_ignore was 0" in getattr(r, "found", "") for r in caplog.records)
        )


def test_a_fault_from_before_the_start_is_healed_at_the_start(node: Node, pod: Pod) -> None:
    run_in(pod.netns, lambda net: delete_link(net, "eth0"))
    with kept(node):
        assert as_before(node, pod)


def test_many_interfaces_that_are_gone_at_once_are_all_built_again(node: Node) -> None:
    with namespaces(7) as sandboxes:
        pods = [add_pod(node, f"c{n}", netns) for n, netns in enumerate(sandboxes)]
        try:
            with kept(node) as keeper:
                for pod in pods:
                    run_in(pod.netns, lambda net: delete_link(net, "eth0"))
                keeper.heals(lambda: all(as_before(node, pod) for pod in pods))
        finally:
            for pod in pods:
                delete_pod(node, pod)


def test_a_filter_of_sources_that_was_taken_away_is_made_again(node: Node, pod: Pod) -> None:
    mac = run_in(pod.netns, lambda net: get_link(net, "eth0")).mac
    address = next(a.partition("/")[0] for a in pod.before.addresses if "." in a)
    own, spoofed = (
        bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src=source, dst="10.1.0.9") / UDP())
        for source in (address, "10.1.0.1")
    )

    def sent() -> set[bytes]:
        """What of both leaves the pod."""
        with Tap(node.netns, "up0") as tap:
            send_from(pod.netns, "eth0", [spoofed, own])
            seen = tap.frames(5, lambda frames: any(bytes(frame) == own for frame in frames))
        return {bytes(frame) for frame in seen} & {own, spoofed}

    assert sent() == {own}
    run_in(pod.netns, _unfiltered)
    assert sent() == {own, spoofed}
    assert "it had no filter of what it may send" in str(reconciled(node).changes[0])
    assert sent() == {own}
    assert reconciled(node).changes == []


def test_a_pod_that_may_send_under_any_address_gets_no_filter(node: Node) -> None:
    with namespaces(1) as (netns,):
        pod = add_pod(node, "c1", netns, guardSources=False)
        reconciled(node)
        assert not run_in(netns, _filtered)
        assert reconciled(node).changes == []
        assert not run_in(netns, _filtered)
        delete_pod(node, pod)


def test_nothing_of_a_filter_stays_behind_its_interface(node: Node) -> None:
    with namespaces(1) as (netns,):
        delete_pod(node, add_pod(node, "c1", netns))
        wire(netns, "eth0", node.netns, "other0")
        assert not run_in(netns, _filtered)


def test_an_attachment_that_a_call_is_at_work_on_is_left_to_it(node: Node, pod: Pod) -> None:
    run_in(pod.netns, lambda net: delete_link(net, "eth0"))
    key = Key("c1", "eth0")

    async def work(host: Host) -> bool:
        async with host.lock(key):
            report = await (await node_state(node, host)).reconcile()
        return report.again and not report.changes

    assert node.inside(work)
    assert not has_link(pod.netns, "eth0")


def test_the_mtu_of_a_pod_that_a_call_is_at_work_on_comes_back_afterwards(
    node: Node, pod: Pod
) -> None:
    async def work(host: Host) -> Report:
        state = await node_state(node, host)
        async with host.lock(Key("c1", "eth0")):
            assert (await state.reconcile()).again
        return await state.reconcile()

    run_in(node.netns, lambda net: set_mtu(net, get_link(net, "up0"), 1300))
    assert not node.inside(work).again
    assert as_before(node, pod)


def test_an_attachment_that_is_being_released_is_not_built_again(node: Node, pod: Pod) -> None:
    records = Records(node.state)
    record = records.load(Key("c1", "eth0"))
    assert record is not None
    record.state = "releasing"
    records.save(record)
    run_in(pod.netns, lambda net: delete_link(net, "eth0"))
    assert reconciled(node).changes == []
    assert not has_link(pod.netns, "eth0")


def test_another_namespace_at_the_pods_path_gets_no_interface(node: Node, pod: Pod) -> None:
    with namespaces(1) as (other,):
        records = Records(node.state)
        record = records.load(Key("c1", "eth0"))
        assert record is not None
        run_in(pod.netns, lambda net: delete_link(net, "eth0"))
        records.save(msgspec.structs.replace(record, netns=netns_path(other)))
        assert reconciled(node).changes == []
        assert not has_link(other, "eth0")
        records.save(record)


def test_an_interface_whose_slot_is_somebody_elses_is_taken_down_and_stays_down(
    node: Node, pod: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    def up() -> bool:
        return run_in(pod.netns, lambda net: get_link(net, "eth0")).up

    with kept(node) as keeper, caplog.at_level(logging.WARNING):
        keeper.fence(_dispute(other=True))
        keeper.heals(lambda: not up())
        assert any("somebody else" in r.getMessage() for r in caplog.records)
        run_in(pod.netns, lambda net: set_up(net, get_link(net, "eth0")))
        keeper.heals(lambda: not up())
        assert Records(node.state).load(Key("c1", "eth0")) is not None
        keeper.fence()
        keeper.heals(lambda: as_before(node, pod))


def test_a_dispute_about_nobodys_slot_takes_nothing_down(node: Node, pod: Pod) -> None:
    with kept(node) as keeper:
        keeper.fence(_dispute(other=False))
    assert as_before(node, pod)


def _filtered(net: Net) -> bool:
    """Whether a frame that is nobody's is dropped: the sender is told."""
    frame = bytes(Ether(src="02:00:00:00:00:99", dst="ff:ff:ff:ff:ff:ff") / IP(src="10.9.9.9"))
    return send_here("eth0", [frame]) == 0


def _unfiltered(net: Net) -> None:
    """What a pod with CAP_NET_ADMIN can do."""
    forget_filter(net, "eth0")
    link = get_link(net, "eth0")
    with suppress(KernelError):
        net.change("open", "eth0", "tc", "del", kind="clsact", index=link.index)


def _dispute(*, other: bool) -> Dispute:
    return Dispute(
        container="c1",
        ifname="eth0",
        namespace="default",
        pod="c1",
        address="10.1.0.2",
        why="it is somebody else's",
        other=other,
    )


def _arp_ignore(node: Node) -> str:
    return run_in(node.netns, lambda net: read_sysctl(net, "ipv4", "conf", "up0", "arp_ignore"))


def _checked(node: Node, pod: Pod) -> dict[str, object]:
    return node.conflist(prevResult=json.loads(encode_result(pod.result, "1.0.0")))
