"""Flows that move to other gateways: one chain in one step, left as the whole plan has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from federation.desired import DesiredNode, Flows, Path, Tunnel
from federation.node.firewall import FirewallDriver
from federation.node.moving import moved
from federation.plan import gateways
from federation.plan.paths import PathState
from hostnet import Kernel, Net
from hostnet import firewall as fw
from hostnet.chains import Present
from tests.federated import LOCAL, REMOTE, THERE, Rig, rig

NAMES = ("one", "two", "three")


def wanted() -> DesiredNode:
    tunnels = tuple(
        Tunnel(Path("f", "b", name), "192.0.2.1", f"192.0.2.{at + 2}", at + 1, 7, True)
        for at, name in enumerate(NAMES)
    )
    every = frozenset(tunnel.ordinal for tunnel in tunnels)
    flows = Flows("f", "b", LOCAL, REMOTE, gateways.buckets(every, every))
    return DesiredNode(
        mark=0x00F00000,
        tunnels=tunnels,
        flows=(flows,),
        local=LOCAL,
        remote=REMOTE,
        peers=THERE,
        ports=(500,),
    )


def failed(node: DesiredNode, *names: str) -> DesiredNode:
    paths = {
        tunnel.path: PathState(
            up=True, usable=tunnel.path.node not in names, ordinal=tunnel.ordinal
        )
        for tunnel in node.tunnels
    }
    return moved(node, paths)


@pytest.fixture
def made() -> Iterator[Rig]:
    with rig() as found:
        yield found


@pytest.fixture
def steps() -> list[str]:
    """What the driver has changed in the kernel."""
    return []


@pytest.fixture
def driver(steps: list[str]) -> Iterator[FirewallDriver]:
    with closing(FirewallDriver(Kernel(steps.append))) as found:
        yield found


def test_a_move_changes_one_chain_to_what_the_whole_plan_would_have(
    made: Rig, driver: FirewallDriver, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made.apply(driver, wanted())
    waiting = set(driver._warm.waiting.values())
    assert len(waiting) == 2
    steps.clear()
    with monkeypatch.context() as patch:
        # Those that waited do it: no other is started for it.
        patch.delattr(fw, "restore")
        assert made.apply(driver, failed(wanted(), "two")) == ("flows take other tunnels",)
    assert steps == ["firewall restore"] * 2
    assert not waiting & set(driver._warm.waiting.values())
    assert made.inside(lambda: driver.faults(failed(wanted(), "two"))) == []
    assert made.apply(driver, failed(wanted(), "two")) == ()
    assert not made.inside(driver.differs)


def test_a_move_after_somebody_changed_rules_puts_these_right_too(
    made: Rig, driver: FirewallDriver
) -> None:
    made.apply(driver, wanted())
    made.feed("*filter\n-F NETSPACE-FED\nCOMMIT\n")
    made.apply(driver, failed(wanted(), "two"))
    assert made.inside(lambda: driver.faults(failed(wanted(), "two"))) == []


def test_flows_move_before_what_else_the_plan_wants_is_done(
    made: Rig, driver: FirewallDriver
) -> None:
    """As when a gateway fails and its cluster's addresses change with it."""
    made.apply(driver, wanted())
    other = replace(failed(wanted(), "two"), peers=(*THERE, "192.0.2.77"))
    done = made.apply(driver, other)
    assert done[0] == "flows take other tunnels"
    assert len(done) > 1
    assert made.inside(lambda: driver.faults(other)) == []


def test_a_move_does_not_wait_for_a_round_that_goes_on(
    made: Rig, driver: FirewallDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.apply(driver, wanted())
    after = failed(replace(wanted(), ports=(500, 4500)), "two")
    read = fw.read_firewall

    def reading(net: Net, firewall: fw.Firewall) -> Present:
        # In the middle of the round a gateway fails.
        driver.hurry(after)
        return read(net, firewall)

    monkeypatch.setattr(fw, "read_firewall", reading)
    done = made.apply(driver, replace(wanted(), ports=(500, 4500)))
    monkeypatch.undo()
    assert "flows take other tunnels" in done
    assert made.inside(lambda: driver.faults(after)) == []
