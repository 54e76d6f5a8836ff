"""`netspacectl audit` and `netspacectl reclaim`: what they show, and their exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest

from netspace.upkeep import Finding, Inspection, Mended, Reclaimed, Repair
from netspacectl import exits
from tests.unit.netspacectl_double import MemoryClient, Terminal
from tests.unit.upkeep_samples import CANDIDATE

Capture = pytest.CaptureFixture[str]

FINDING = Finding(
    code="attachment-missing",
    keys=["slots/red/7"],
    what="10.0.0.7 is\x1b[31m not named",
    why="it matters",
    mend="write the key",
    safe=True,
)


class Looking(MemoryClient):
    """A server that has one finding until it is mended, if it can be."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__("east")
        self.findings = list(findings)

    async def inspect(
        self, cluster: str, told: Callable[[int], None] = lambda _: None
    ) -> Inspection:
        self._note("inspect", cluster)
        told(10)
        told(20)
        return Inspection(
            cluster=cluster, revision=9, keys=20, findings=list(self.findings), more=0
        )

    async def repair(self, cluster: str, told: Callable[[int], None] = lambda _: None) -> Repair:
        self._note("repair", cluster)
        mended = [
            Mended(code=each.code, keys=each.keys, what=each.what, done=True)
            for each in self.findings
            if each.safe
        ]
        self.findings = [each for each in self.findings if not each.safe]
        return Repair(mended=mended, left=await self.inspect(cluster, told))


def test_a_clean_state_is_status_0_in_one_line(capsys: Capture) -> None:
    assert Terminal(Looking()).run("audit") == exits.DONE
    assert capsys.readouterr().out == ("cluster east: nothing is wrong in 20 keys at revision 9\n")


def test_a_finding_is_told_in_words_and_by_the_status(capsys: Capture) -> None:
    assert Terminal(Looking(FINDING)).run("audit") == exits.DIFFERS
    assert capsys.readouterr().out.splitlines() == [
        "attachment-missing: 10.0.0.7 is�[31m not named",
        "  why     it matters",
        "  repair  write the key",
        "  key     slots/red/7",
        "cluster east: 1 finding in 20 keys at revision 9",
    ]


def test_repair_says_what_it_did_and_what_is_left(capsys: Capture) -> None:
    by_hand = Finding(code="clock", keys=["clock"], what="odd", why="so", mend="set it", safe=False)
    client = Looking(FINDING, by_hand)
    assert Terminal(client).run("audit", "--repair") == exits.DIFFERS
    shown = capsys.readouterr().out
    assert shown.startswith("mended: 10.0.0.7")
    assert "by hand set it" in shown
    client.findings = []
    assert Terminal(client).run("audit", "--repair", "-o", "json") == exits.DONE
    assert json.loads(capsys.readouterr().out)["left"]["findings"] == []


class Missing(MemoryClient):
    """A server with one candidate, which a round frees."""

    candidate = CANDIDATE

    async def reclaimable(self, cluster: str) -> Reclaimed:
        self._note("reclaimable", cluster)
        return Reclaimed(grace=300, freed=[], left=[self.candidate])

    async def reclaim(self, cluster: str) -> Reclaimed:
        self._note("reclaim", cluster)
        return Reclaimed(grace=300, freed=[self.candidate], left=[])


def test_a_dry_run_explains_every_candidate_and_frees_nothing(capsys: Capture) -> None:
    client = Missing("east")
    assert Terminal(client).run("reclaim", "--dry-run") == exits.DONE
    shown = capsys.readouterr().out
    for part in ("10.91.0.7", "team-a/web-0", "node-1", "6m40s", "10s", "another report"):
        assert part in shown
    assert ("reclaim", "east") not in client.asked


def test_a_dry_run_says_whose_word_it_is_and_what_it_lacks(capsys: Capture) -> None:
    client = Missing("east")
    client.candidate = msgspec.structs.replace(
        CANDIDATE, witness="kubernetes", lacks="Kubernetes' word once more"
    )
    assert Terminal(client).run("reclaim", "--dry-run") == exits.DONE
    header, row = capsys.readouterr().out.splitlines()
    assert "WITNESS" in header and "  kubernetes  " in row and "Kubernetes' word once more" in row


def test_a_round_says_what_it_freed(capsys: Capture) -> None:
    assert Terminal(Missing("east")).run("reclaim") == exits.DONE
    assert capsys.readouterr().out.splitlines() == [
        "reclaimed 10.91.0.7 of pod team-a/web-0 on node node-1",
        "no candidates: every witness's last report has all that pods hold",
    ]
