"""Carrying a request out where its cluster is led: what its caller is told when that goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest

from ipam_server.leading import LeaderRecord, Leading
from ipam_server.peers import Peers
from netspace.http_client import HttpClient
from netspace.problems import Problem
from statestore import Store

ME = LeaderRecord("s1", "http://127.0.0.1:1")


class Led:
    """A cluster that this server leads, whatever it answers."""

    leading = True

    async def moved(self, seconds: float) -> None:
        await asyncio.sleep(0)


def asked(codes: list[str], *, repeat: bool = True, patience: float = 5.0) -> str:
    """What the caller is told when one attempt after the other ends so; "" is success."""
    answers: Iterator[str] = iter(codes)

    async def here() -> str:
        code = next(answers)
        if code:
            raise Problem(code, "as told")
        return "done"

    async def there(client: HttpClient) -> str:
        raise AssertionError("another server is asked")

    async def ask() -> str:
        peers = Peers(cast(Store, None), ME, 2, lambda url: HttpClient([url]), patience)
        try:
            return await peers.lead(cast(Leading, Led()), here, there, repeat=repeat)
        except Problem as problem:
            return problem.code

    return asyncio.run(ask())


def test_a_request_is_carried_out_again_while_nobody_leads_and_when_its_answer_was_lost() -> None:
    assert asked(["not-leader", "outcome-unknown", ""]) == "done"


@pytest.mark.parametrize("code", ["busy", "state-unavailable"])
def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_done(code: str) -> None:
    assert asked(["outcome-unknown", "not-leader", code]) == "outcome-unknown"
    assert asked(["not-leader", code]) == code


def test_a_leader_that_is_not_found_after_a_lost_answer_leaves_it_unknown() -> None:
    codes = ["outcome-unknown"] + ["not-leader"] * 100_000
    assert asked(codes, patience=0.05) == "outcome-unknown"
    assert asked(["not-leader"] * 100_000, patience=0.05) == "not-leader"


def test_a_rule_that_refuses_is_told_even_after_a_lost_answer() -> None:
    assert asked(["outcome-unknown", "pool-exhausted"]) == "pool-exhausted"


def test_what_must_not_be_done_twice_is_asked_for_once() -> None:
    assert asked(["outcome-unknown", ""], repeat=False) == "outcome-unknown"
