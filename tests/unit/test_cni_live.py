"""The node's report of live attachments: what is left out is surely gone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest

from cni_plugins.live import live_attachments, report_attachments
from cni_plugins.records import Key, Records
from hostnet.errors import KernelError
from netspace.upkeep import AttachmentsReport, NodeAttachments
from tests.unit.cni_bench import Bench, added
from tests.unit.cni_doubles import CONTAINER, NETNS

KEY = Key(CONTAINER, "eth0")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A node with one pod."""
    bench = Bench(tmp_path)
    added(bench)
    return bench


def live(bench: Bench) -> list[tuple[str, str, int]]:
    found = asyncio.run(live_attachments(bench.host()))
    return [(each.container, each.ifname, each.generation) for each in found]


def generation(bench: Bench) -> int:
    record = bench.records.load(KEY)
    assert record is not None and record.allocation is not None
    return record.allocation.generation


def test_an_interface_that_is_there_lives_with_its_generation(bench: Bench) -> None:
    assert live(bench) == [(CONTAINER, "eth0", generation(bench))]


def test_it_is_told_with_all_that_a_restored_server_needs_to_know_it_again(bench: Bench) -> None:
    (found,) = asyncio.run(live_attachments(bench.host()))
    record = bench.records.load(KEY)
    assert record is not None and found.holding is not None
    said = found.holding
    assert (said.claim, said.pod, said.pool) == (record.claim, record.pod, "default")
    assert (said.network, said.slot, said.ipv4, said.ipv6) == ("net", "2", "10.9.0.2", "fd00:9::2")


@pytest.mark.parametrize("state", ["adding", "releasing"])
def test_of_what_comes_or_goes_nothing_is_told_that_could_bring_it_back(
    bench: Bench, state: Literal["adding", "releasing"]
) -> None:
    record = bench.records.load(KEY)
    assert record is not None
    record.state = state
    bench.records.save(record)
    (found,) = asyncio.run(live_attachments(bench.host()))
    assert found.holding is None


def test_an_interface_that_went_with_its_sandbox_does_not(bench: Bench) -> None:
    bench.wiring.links.clear()
    bench.wiring.gone.add(NETNS)
    assert live(bench) == []


def test_a_link_that_went_alone_is_to_be_built_again_and_lives(bench: Bench) -> None:
    bench.wiring.links.clear()
    assert live(bench) == [(CONTAINER, "eth0", generation(bench))]


def test_what_only_waits_to_be_released_does_not_live(bench: Bench) -> None:
    record = bench.records.load(KEY)
    assert record is not None
    record.state = "releasing"
    bench.records.save(record)
    assert live(bench) != [], "its interface is there still"
    bench.wiring.links.clear()
    assert live(bench) == []


def test_what_somebody_is_at_work_on_lives(bench: Bench) -> None:
    bench.wiring.links.clear()
    bench.wiring.gone.add(NETNS)

    async def run() -> int:
        async with bench.host().lock(KEY):
            return len(await live_attachments(bench.host()))

    assert asyncio.run(run()) == 1


def test_what_cannot_be_looked_at_lives(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: str) -> bool:
        raise KernelError("look at", "eth0", "the kernel does not say", "try again")

    monkeypatch.setattr(bench.wiring, "present", fail)
    assert len(live(bench)) == 1


def test_a_record_that_cannot_be_read_lives_under_any_generation(bench: Bench) -> None:
    (bench.folder / "attachments" / f"{KEY}.json").write_bytes(b"{")
    (bench.folder / "attachments" / "c0@net%253a1.json").write_bytes(b"{")
    assert sorted(live(bench)) == sorted([(CONTAINER, "eth0", 0), ("c0", "net%3a1", 0)])


def test_records_are_complete_from_the_first_report_on(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.since(70) == 70
    assert Records(tmp_path).since(90) == 70
    (tmp_path / "since.json").write_bytes(b"?")
    assert records.since(95) == 95


def test_the_revision_is_asked_for_before_the_look(bench: Bench) -> None:
    said: list[object] = []

    class Server:
        async def node_attachments(self, cluster: str, node: str) -> NodeAttachments:
            said.append("asked")
            bench.wiring.before = said.append
            return NodeAttachments(node=node, revision=40 + len(said), held=1, missing=0)

        async def report_attachments(
            self, cluster: str, node: str, report: AttachmentsReport
        ) -> NodeAttachments:
            said.append(report)
            return NodeAttachments(node=node, revision=50, held=1, missing=0)

    count, _ = asyncio.run(report_attachments(bench.host(), Server()))  # type: ignore[arg-type]
    assert count == 1
    asked, report = said
    assert asked == "asked"
    assert isinstance(report, AttachmentsReport)
    assert (report.seen, report.since) == (41, 41)
