"""What the API has is known, whatever goes wrong between list and watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_controller import informer as module
from kube_controller import watching
from kube_controller.informer import Informer, fresh
from kube_controller.kinds import NAMESPACES, Namespace
from netspace.kube_api import ApiError
from tests.unit.kube_script import Says, Script, event, failure, listed, scripted, thing, until


@contextlib.contextmanager
def hasty() -> Iterator[None]:
    """Failures are got over quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "FIRST_PAUSE", 0.002)
        patch.setattr(watching, "LONGEST_PAUSE", 0.01)
        yield


@contextlib.asynccontextmanager
async def informed(
    *answers: Says, relist: float = 900, limit: int = 500
) -> AsyncIterator[tuple[Informer[Namespace], Script, list[int]]]:
    """An informer of namespaces that runs, and how often it said that something changed."""
    news: list[int] = []
    async with scripted(*answers) as script:
        api = script.api()
        running = Informer(api, NAMESPACES, lambda: news.append(1), relist=relist, limit=limit)
        task = asyncio.create_task(running.run())
        try:
            yield running, script, news
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await api.close()


async def fresh_from(script: Script) -> tuple[dict[str, Namespace], str]:
    api = script.api()
    try:
        return await fresh(api, NAMESPACES)
    finally:
        await api.close()


def run(scenario: Callable[[], Any]) -> None:
    with hasty():
        asyncio.run(scenario())


def test_what_is_listed_is_known_and_what_happens_then_is_followed() -> None:
    async def scenario() -> None:
        events = [
            event("ADDED", thing("b", 6)),
            event("DELETED", thing("a", 7)),
            event("MODIFIED", thing("b", 8, netspace="x")),
        ]
        watch = Says(events=events, end="silence")
        async with informed(listed(5, thing("a", 3)), watch) as (known, script, news):
            await until(lambda: len(news) == 4, "four changes")
            assert known.objects.keys() == {"b"}
            assert known.objects["b"].metadata.ours == {"ipam.com/netspace": "x"}
            assert script.watches[0].query["resourceVersion"] == "5"
            assert script.watches[0].query["allowWatchBookmarks"] == "true"

    run(scenario)


def test_a_list_comes_in_pages_of_one_moment() -> None:
    async def scenario() -> None:
        answers = listed(9, thing("a", 1), following="more"), listed(9, thing("b", 2))
        async with informed(*answers, limit=1) as (known, script, _):
            await until(known.listed.is_set, "listed")
            assert known.objects.keys() == {"a", "b"}
            first, second = script.lists
            assert first.query == {"limit": "1"}
            assert second.query == {"limit": "1", "continue": "more"}

    run(scenario)


def test_a_list_whose_rest_is_not_kept_any_more_is_begun_anew() -> None:
    async def scenario() -> None:
        answers = (
            listed(9, thing("old", 1), following="more"),
            Says(failure(410), status=410),
            listed(12, thing("new", 11)),
        )
        async with scripted(*answers) as script:
            found, version = await fresh_from(script)
            assert (set(found), version) == ({"new"}, "12")

    run(scenario)


def test_a_fresh_list_asks_for_the_newest_state() -> None:
    async def scenario() -> None:
        async with scripted(listed(9)) as script:
            await fresh_from(script)
            assert "resourceVersion" not in script.lists[0].query

    run(scenario)


@pytest.mark.parametrize("end", ["good", "cut"])
def test_a_watch_that_ends_goes_on_where_it_was(end: str) -> None:
    async def scenario() -> None:
        first = Says(events=[event("ADDED", thing("b", 6))], end=end)
        second = Says(events=[event("ADDED", thing("c", 7))], end="silence")
        async with informed(listed(5), first, second) as (known, script, _):
            await until(lambda: "c" in known.objects, "the second watch")
            assert [each.query["resourceVersion"] for each in script.watches] == ["5", "6"]
            assert len(script.lists) == 1

    run(scenario)


def test_a_bookmark_brings_the_place_forward_without_news() -> None:
    async def scenario() -> None:
        mark = event("BOOKMARK", {"kind": "Namespace", "metadata": {"resourceVersion": "88"}})
        async with informed(listed(5), Says(events=[mark])) as (_, script, news):
            await until(lambda: len(script.watches) == 2, "another watch")
            assert script.watches[1].query["resourceVersion"] == "88"
            assert len(news) == 1

    run(scenario)


@pytest.mark.parametrize(
    "gone",
    [Says(failure(410), status=410), Says(events=[event("ERROR", failure(410))], end="good")],
    ids=["refused", "in the stream"],
)
def test_what_is_not_kept_any_more_is_listed_anew(gone: Says) -> None:
    async def scenario() -> None:
        answers = listed(5, thing("a", 1), thing("b", 2)), gone, listed(90, thing("b", 2))
        async with informed(*answers) as (known, script, _):
            await until(lambda: known.objects.keys() == {"b"}, "the new list")
            await until(lambda: len(script.watches) == 2, "another watch")
            assert script.watches[1].query["resourceVersion"] == "90"

    run(scenario)


def test_another_error_in_the_stream_does_not_lose_the_place() -> None:
    async def scenario() -> None:
        error = Says(events=[event("ADDED", thing("b", 6)), event("ERROR", failure(500))])
        async with informed(listed(5), error) as (_, script, _news):
            await until(lambda: len(script.watches) == 2, "another watch")
            assert script.watches[1].query["resourceVersion"] == "6"

    run(scenario)


def test_an_event_that_cannot_be_read_leads_to_another_list() -> None:
    async def scenario() -> None:
        wrong = Says(events=[event("ADDED", {"metadata": {"name": 5}})])
        async with informed(listed(5), wrong, listed(9, thing("a", 8))) as (known, _, _news):
            await until(lambda: known.objects.keys() == {"a"}, "the new list")

    run(scenario)


def test_a_line_that_is_no_json_does_not_lose_the_place() -> None:
    async def scenario() -> None:
        wrong = Says(events=[event("ADDED", thing("b", 6)), b"{nonsense\n"])
        async with informed(listed(5), wrong) as (_, script, _news):
            await until(lambda: len(script.watches) == 2, "another watch")
            assert script.watches[1].query["resourceVersion"] == "6"

    run(scenario)


def test_an_api_that_ends_every_watch_at_once_is_not_asked_without_a_pause() -> None:
    async def scenario() -> None:
        answers = [listed(5), *(Says(events=[]) for _ in range(1000))]
        async with informed(*answers) as (_, script, _news):
            await until(lambda: script.watches, "a watch")
            await asyncio.sleep(0.2)
            # Pauses of 5 to 10 ms: a few dozen at most, and not a thousand.
            assert len(script.watches) < 60

    run(scenario)


def test_a_watch_without_a_word_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH", (0, 0))
    monkeypatch.setattr(module, "QUIET", 0.05)

    async def scenario() -> None:
        async with informed(listed(5), Says(events=[], end="silence")) as (_, script, _news):
            await until(lambda: len(script.watches) == 2, "another watch")

    run(scenario)


def test_an_api_that_is_away_is_waited_for() -> None:
    async def scenario() -> None:
        async with scripted() as script:
            port = script.port
        api = Script([], port=port).api()
        failures = Counter[str]()
        known = Informer(api, NAMESPACES, lambda: None, lambda what: failures.update([what]))
        task = asyncio.create_task(known.run())
        await until(lambda: failures["failure"] > 2, "some failures")
        async with scripted(listed(5, thing("a", 1)), port=port):
            await until(known.listed.is_set, "listed")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()

    run(scenario)


def test_everything_is_listed_anew_from_time_to_time() -> None:
    async def scenario() -> None:
        answers = listed(500, thing("a", 400)), Says(events=[]), listed(7, thing("b", 6))
        async with informed(*answers, relist=0) as (known, _, _news):
            await until(lambda: known.objects.keys() == {"b"}, "the second list")

    run(scenario)


def test_what_does_not_matter_is_no_news() -> None:
    async def scenario() -> None:
        other = {**thing("a", 6), "status": {"phase": "Active"}}
        last = event("ADDED", thing("b", 7))
        watch = Says(events=[event("MODIFIED", other), last], end="silence")
        async with informed(listed(5, thing("a", 1)), watch) as (known, _, news):
            await until(lambda: "b" in known.objects, "the last event")
            assert len(news) == 2

    run(scenario)


def test_a_refused_list_says_why() -> None:
    async def scenario() -> None:
        async with scripted(Says(failure(403), status=403)) as script:
            with pytest.raises(ApiError, match="failure 403") as refused:
                await fresh_from(script)
            assert refused.value.status == 403

    run(scenario)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_pause_is_never_longer_than_the_longest_nor_nothing(failures: int, chance: float) -> None:
    assert 0 < watching.pause(failures, chance) <= watching.LONGEST_PAUSE


@given(st.integers(1, 30))
def test_a_pause_never_becomes_shorter_with_more_failures(failures: int) -> None:
    assert watching.pause(failures, 0.5) <= watching.pause(failures + 1, 0.5)
