"""Many calls at once, and calls in any order with a server that comes and goes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cni_plugins import add, delete
from cni_plugins.leases import replay_pending
from cni_plugins.protocol import CniError
from cni_plugins.results import Result
from netspace.problems import Problem
from tests.unit.cni_bench import (
    AWAY,
    LOST,
    STEPS,
    Bench,
    fail_at,
    invocation,
)
from tests.unit.cni_doubles import InjectedError, MemoryIpam

# Many at once, and in any order


def test_many_adds_at_once_get_an_address_each(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryIpam(size=64))

    async def all_of_them() -> list[Result]:
        host = bench.host(lock_wait=30)
        calls = [
            invocation(container=f"c{number}", netns=f"/ns/{number}", args="")
            for number in range(64)
        ]
        return await asyncio.gather(*(add.add(host, call) for call in calls))

    results = asyncio.run(all_of_them())
    assert len({result.ips[0].address for result in results}) == 64
    assert len(bench.wiring.links) == 64


class AnyOrder(RuleBasedStateMachine):
    """ADD, DEL and replays of two sandboxes in any order, with a server that comes and goes: after
    each call a link has a slot, and at the end nothing is left."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(Path(mkdtemp(prefix="netspace-test-")))

    @rule(number=st.integers(0, 1), trouble=st.sampled_from(["", "refuse", "lose"]))
    def add(self, number: int, trouble: str) -> None:
        self._with("allocate", trouble, lambda: add.add(self.bench.host(), self._call(number)))

    @rule(number=st.integers(0, 1), trouble=st.sampled_from(["", "refuse", "lose"]))
    def delete(self, number: int, trouble: str) -> None:
        call = self._call(number, "DEL")
        self._with("release", trouble, lambda: delete.delete(self.bench.host(), call, "netspace"))

    @rule(number=st.integers(0, 1), name=st.sampled_from(STEPS))
    def fail(self, number: int, name: str) -> None:
        host = self.bench.host(fail_at(name))
        self._with("allocate", "", lambda: add.add(host, self._call(number)))

    @rule()
    def replay(self) -> None:
        self._with("allocate", "", lambda: replay_pending(self.bench.host(), most=9, within=5))

    @invariant()
    def every_link_has_its_slot(self) -> None:
        held = {request.attachment.container for request, _ in self.bench.ipam.holders.values()}
        assert {netns.removeprefix("/ns/") for netns, _ in self.bench.wiring.links} <= held

    @invariant()
    def every_slot_has_its_record(self) -> None:
        recorded = {record.container for record in self.bench.records.all()}
        held = {request.attachment.container for request, _ in self.bench.ipam.holders.values()}
        assert held <= recorded

    def teardown(self) -> None:
        for number in range(2):
            self._with(
                "release",
                "",
                lambda n=number: delete.delete(  # type: ignore[misc]
                    self.bench.host(), self._call(n, "DEL"), "netspace"
                ),
            )
        self.bench.wiring.vlans.clear()
        assert self.bench.nothing_left()
        shutil.rmtree(self.bench.folder)

    def _call(self, number: int, command: str = "ADD") -> Any:
        return invocation(command, container=f"c{number}", netns=f"/ns/c{number}", args="")

    def _with(self, call: str, trouble: str, work: Callable[[], Any]) -> None:
        ipam = self.bench.ipam
        ipam.refuse = {call: AWAY} if trouble == "refuse" else {}
        ipam.lose = {call: LOST} if trouble == "lose" else {}
        try:
            asyncio.run(work())
        except (Problem, CniError, InjectedError):
            pass
        finally:
            ipam.refuse, ipam.lose = {}, {}


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=15)
TestAnyOrder = AnyOrder.TestCase


@given(st.binary(min_size=6, max_size=6))
def test_every_mac_is_unicast_and_locally_administered(octets: bytes) -> None:
    host = Bench(Path("/nonexistent")).host(random=lambda _: octets)
    first = int(host.new_mac()[:2], 16)
    assert first & 3 == 2
