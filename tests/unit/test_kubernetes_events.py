"""Events on pods: what they say, how repeats come together, and that nobody waits for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.kubernetes import events
from cni_plugins.kubernetes.events import REMEMBERED, REPEAT, Book, Happening, Post
from cni_plugins.kubernetes.telling import Teller
from cni_plugins.netconf import ANNOTATIONS, AnnotationError
from cni_plugins.protocol import CniError
from hostnet import AddressConflict, KernelError
from netspace.messages import Pod
from netspace.problems import KINDS, Problem
from tests.unit.agent_bench import Served, served, wait_until
from tests.unit.kubernetes_double import Asked, KubeDouble, Reply, kube_double, kubeconfig, status

WEB = Pod(namespace="default", name="web-0", uid="u-1")


def happening(reason: str = "PoolExhausted", message: str = "none is free") -> Happening:
    return Happening(pod=WEB, ifname="eth0", kind="Warning", reason=reason, message=message)


def taken_out(book: Book, now: float) -> Post:
    found = book.next(now)
    assert isinstance(found, Post)
    return found


class TestWhatTheySay:
    def test_an_address_with_its_pool_and_network(self) -> None:
        told = events.assigned(WEB, "eth0", "blue", "vlan910", ["10.9.0.5", "fd00::5"])
        assert (told.kind, told.reason) == ("Normal", "AddressAssigned")
        assert told.message == "eth0 has 10.9.0.5 and fd00::5 from pool blue (network vlan910)"

    def test_a_failure_in_the_words_of_the_runtimes_error(self) -> None:
        problem = Problem("pool-exhausted", "pool blue has none", do="grow it")
        told = events.failed(WEB, "eth0", problem)
        assert (told.kind, told.reason) == ("Warning", "PoolExhausted")
        assert told.message == "eth0: pool blue has none: grow it"

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (Problem("address-taken", "x"), "AddressTaken"),
            (Problem("unavailable", "x"), "ServerUnavailable"),
            (Problem("internal", "x"), "ServerUnavailable"),
            (Problem("bad-request", "x"), "AddressFailed"),
            (AnnotationError(7, "x"), "AnnotationInvalid"),
            (CniError(7, "x"), "AddressFailed"),
            (AddressConflict("give", "10.9.0.5", "it is at 02::1", "y"), "AddressConflict"),
            (KernelError("make", "eth0", "x", "y"), "InterfaceFailed"),
            (ValueError("x"), "AddressFailed"),
        ],
    )
    def test_a_reason_is_one_word(self, error: Exception, reason: str) -> None:
        assert events.reason_of(error) == reason

    def test_what_was_undone_has_the_reason_it_was_undone_for(self) -> None:
        wrapped = CniError(11, "not all undone")
        wrapped.__cause__ = Problem("pool-exhausted", "x")
        assert events.reason_of(wrapped) == "PoolExhausted"

    def test_every_problem_of_pods_has_a_reason_of_its_own(self) -> None:
        of_pods = [code for code in KINDS if code.startswith(("pool-", "address-", "family-"))]
        reasons = {events.reason_of(Problem(code, "x")) for code in of_pods}
        assert len(reasons) == len(of_pods)
        assert "AddressFailed" not in reasons

    def test_long_words_are_cut_and_the_name_of_an_event_fits(self) -> None:
        told = events.failed(WEB, "eth0", Problem("invalid", "x" * 5000))
        assert len(told.message) == 1000
        long = Pod(namespace="a", name="a" * 199 + "." + "b" * 53)
        assert events.named(long, "0123456789abcdef") == "a" * 199 + ".0123456789abcdef"


class TestTheBook:
    def test_what_comes_again_before_it_is_posted_is_one_event(self) -> None:
        book = Book()
        book.note(happening(message="first"), 100)
        book.note(happening(message="second"), 101)
        post = taken_out(book, 101)
        assert (post.count, post.first, post.last, post.name) == (2, 100, 101, None)
        assert post.happening.message == "second"
        assert book.next(101) is None

    def test_what_comes_again_later_counts_the_event_up_but_not_at_once(self) -> None:
        book = Book()
        book.note(happening(), 100)
        book.posted(taken_out(book, 100), "web-0.1", 100)
        book.note(happening(), 101)
        assert book.next(102) == REPEAT - 2
        post = taken_out(book, 100 + REPEAT)
        assert (post.name, post.count, post.first) == ("web-0.1", 2, 100)

    def test_an_event_that_the_api_has_forgotten_is_made_anew(self) -> None:
        book = Book()
        book.note(happening(), 100)
        book.posted(taken_out(book, 100), "web-0.1", 100)
        book.note(happening(), 101 + REMEMBERED)
        post = taken_out(book, 101 + REMEMBERED)
        assert (post.name, post.count) == (None, 1)

    def test_others_do_not_wait_for_one_that_repeats(self) -> None:
        book = Book()
        book.note(happening(), 100)
        book.posted(taken_out(book, 100), "web-0.1", 100)
        book.note(happening(), 101)
        book.note(happening("AddressTaken"), 101)
        assert taken_out(book, 101).happening.reason == "AddressTaken"

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("note"), st.integers(0, 9)),
                st.tuples(st.just("post"), st.integers(0, 0)),
                st.tuples(st.just("wait"), st.integers(1, 20)),
            ),
            max_size=60,
        )
    )
    def test_everything_noted_is_posted_waits_or_was_dropped_and_bounds_hold(
        self, steps: list[tuple[str, int]]
    ) -> None:
        book, now, noted, posted = Book(most=3), 0.0, 0, dict[str, int]()
        for step, value in steps:
            if step == "note":
                book.note(happening(f"R{value}"), now)
                noted += 1
            elif step == "wait":
                now += value
            elif isinstance(post := book.next(now), Post):
                new = post.count - (posted.get(post.name, 0) if post.name else 0)
                name = post.name or f"e{len(posted)}"
                posted[name] = post.count
                assert new > 0
                book.posted(post, name, now)
            assert book.waiting <= 3
        now += REPEAT
        while isinstance(post := book.next(now), Post):
            posted[post.name or f"e{len(posted)}"] = post.count
        assert sum(posted.values()) + book.dropped == noted


def test_the_form_is_the_apis() -> None:
    post = Post(happening=happening(), count=3, first=0, last=61)
    made = events.created(post, "web-0.1", "node-1")
    assert made["metadata"] == {"name": "web-0.1", "namespace": "default"}
    assert made["involvedObject"]["uid"] == "u-1"
    assert (made["firstTimestamp"], made["lastTimestamp"]) == (
        "1970-01-01T00:00:00Z",
        "1970-01-01T00:01:01Z",
    )
    assert made["source"] == {"component": "netspace-agent", "host": "node-1"}
    assert events.repeated(post) == {
        "message": "none is free",
        "count": 3,
        "lastTimestamp": "1970-01-01T00:01:01Z",
    }


# The agent


class Clock:
    """The time of day, for the teller alone."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Test = Callable[[Served, KubeDouble, Teller, Clock], Awaitable[None]]


def run(folder: Path, answer: Callable[[Asked], Reply], test: Test, **kubernetes: Any) -> None:
    async def work() -> None:
        clock = Clock()
        async with (
            kube_double(answer) as double,
            served(
                folder, lambda hosts: Teller(hosts, str(folder / "node.yaml"), clock, 0)
            ) as agent,
        ):
            teller = agent.witness
            assert isinstance(teller, Teller)
            path = kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{double.port}")
            config = json.loads(agent.config.read_text())
            config["kubernetes"] = {"kubeconfig": str(path), "timeout": 1, **kubernetes}
            agent.config.write_text(json.dumps(config))
            running = asyncio.create_task(teller.run())
            try:
                await test(agent, double, teller, clock)
            finally:
                running.cancel()

    asyncio.run(asyncio.wait_for(work(), 20))


async def asked(agent: Served, **changes: Any) -> tuple[int, dict[str, Any]]:
    """An ADD of a runtime that passes annotations: the API has nothing to do with the answer."""
    return await agent.asked("ADD", runtimeConfig={ANNOTATIONS: {}}, **changes)


def created(asked: Asked) -> Reply:
    return (201, asked.body) if asked.method == "POST" else (200, {})


def test_an_add_and_its_failure_become_events_on_the_pod(tmp_path: Path) -> None:
    async def test(agent: Served, double: KubeDouble, teller: Teller, clock: Clock) -> None:
        assert (await asked(agent))[0] == 0
        await wait_until(lambda: len(double.asked) == 1)
        agent.bench.ipam.refuse["allocate"] = Problem("pool-exhausted", "pool blue has none")
        assert (await asked(agent, container="c2", netns="/n2", pod="web-1"))[0] == 1
        await wait_until(lambda: teller.counts.posted == 2)
        first, second = (each.body for each in double.asked)
        assert double.asked[0].path == "/api/v1/namespaces/default/events"
        assert (first["reason"], first["type"]) == ("AddressAssigned", "Normal")
        assert "from pool default" in first["message"]
        assert (second["reason"], second["involvedObject"]["name"]) == ("PoolExhausted", "web-1")

    run(tmp_path, created, test)


def test_a_repeat_counts_the_event_up(tmp_path: Path) -> None:
    async def test(agent: Served, double: KubeDouble, teller: Teller, clock: Clock) -> None:
        agent.bench.ipam.refuse["allocate"] = Problem("pool-exhausted", "pool blue has none")
        await asked(agent)
        await wait_until(lambda: teller.counts.posted == 1)
        clock.now += REPEAT
        await asked(agent)
        await wait_until(lambda: teller.counts.posted == 2)
        post, patch = double.asked
        assert patch.method == "PATCH"
        assert patch.headers["content-type"] == "application/merge-patch+json"
        assert patch.path.endswith(post.body["metadata"]["name"])
        assert patch.body["count"] == 2

    run(tmp_path, created, test)


def test_a_repeat_of_an_event_that_is_gone_makes_another(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        return created(asked) if asked.method == "POST" else status(404, "gone")

    async def test(agent: Served, double: KubeDouble, teller: Teller, clock: Clock) -> None:
        agent.bench.ipam.refuse["allocate"] = Problem("pool-exhausted", "x")
        await asked(agent)
        await wait_until(lambda: teller.counts.posted == 1)
        clock.now += REPEAT
        await asked(agent)
        await wait_until(lambda: teller.counts.posted == 2)
        assert [each.method for each in double.asked] == ["POST", "PATCH", "POST"]

    run(tmp_path, answer, test)


def test_an_api_that_is_away_holds_nobody_up_and_is_counted(tmp_path: Path) -> None:
    async def test(agent: Served, double: KubeDouble, teller: Teller, clock: Clock) -> None:
        assert (await asked(agent))[0] == 0
        await wait_until(lambda: teller.counts.failed == 1)
        assert (await agent.asked("DEL"))[0] == 0
        assert teller.counts.posted == 0
        assert "does not answer" in teller.counts.why

    run(tmp_path, lambda asked: None, test)


def test_without_the_wish_for_events_there_are_none(tmp_path: Path) -> None:
    async def test(agent: Served, double: KubeDouble, teller: Teller, clock: Clock) -> None:
        assert (await asked(agent))[0] == 0
        await wait_until(lambda: teller.counts.waiting == 0)
        assert not double.asked

    run(tmp_path, created, test, events=False)
