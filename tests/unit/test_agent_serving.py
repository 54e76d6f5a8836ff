"""The agent's socket: what a call is answered, what is bounded, what a hang-up undoes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cni_plugins import frames, protocol, serving, sockets
from cni_plugins.protocol import Invocation
from cni_plugins.serving import Witness
from netspace.messages import NetworkView
from tests.unit.agent_bench import Held, Served, served, wait_until
from tests.unit.cni_bench import AWAY
from tests.unit.cni_doubles import NETNS

Test = Callable[[Served], Awaitable[None]]


def run(folder: Path, test: Test, witness: Witness | None = None, **limits: Any) -> None:
    async def work() -> None:
        async with served(folder, witness, **limits) as agent:
            await test(agent)

    asyncio.run(asyncio.wait_for(work(), 20))


def test_a_call_is_answered_what_the_executable_would_write(tmp_path: Path) -> None:
    async def test(agent: Served) -> None:
        status, result = await agent.asked("ADD")
        assert (status, result["cniVersion"], len(result["ips"])) == (0, "1.1.0", 2)
        assert agent.bench.wiring.links
        assert await agent.asked("DEL") == (0, {})
        assert not agent.bench.wiring.links and not agent.bench.ipam.holders
        assert await agent.asked("VERSION", stdin=b"") == (0, json.loads(protocol.version_answer()))
        assert agent.agent.counts.calls["ADD"] == {"done": 1}

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cniVersion": "9.9.9"}, 1),
        ({"netns": "relative"}, 4),
        ({"stdin": b"{"}, 6),
        ({"stdin": b" " * frames.MAX_STDIN}, 6),
        ({"mode": "sideways"}, 7),
        ({"container": ""}, 4),
    ],
)
def test_a_refusal_has_the_code_it_has_in_an_executable(
    tmp_path: Path, changes: dict[str, Any], code: int
) -> None:
    async def test(agent: Served) -> None:
        status, error = await agent.asked("ADD", **changes)
        assert (status, error["code"]) == (1, code)
        assert (await agent.asked("ADD"))[0] == 0

    run(tmp_path, test)


def test_an_error_is_in_the_version_of_the_configuration(tmp_path: Path) -> None:
    async def test(agent: Served) -> None:
        agent.bench.wiring.gone.add(NETNS)
        _, error = await agent.asked("ADD", cniVersion="0.4.0")
        assert (error["cniVersion"], error["code"]) == ("0.4.0", 4)

    run(tmp_path, test)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"NSC", b"NSC1\xff\xff\xff\xff", b"NSC1\x03\0\0\0abc"]
)
def test_what_is_no_request_is_not_answered(tmp_path: Path, data: bytes) -> None:
    async def test(agent: Served) -> None:
        caller = await agent.connect()
        caller.send(data)
        caller.writer.write_eof()
        with suppress(ConnectionResetError):  # Bytes were left unread.
            assert await caller.bytes() == b""
        await wait_until(lambda: agent.agent.counts.malformed == 1)
        assert (await agent.asked("ADD"))[0] == 0

    run(tmp_path, test)


def test_a_connection_that_says_nothing_is_no_fault(tmp_path: Path) -> None:
    async def test(agent: Served) -> None:
        (await agent.connect()).hang_up()
        await wait_until(lambda: agent.agent.counts.connections == 1 and not agent.agent.open)
        assert agent.agent.counts.malformed == 0

    run(tmp_path, test)


def test_only_so_many_are_worked_on_so_many_wait_and_the_next_is_told_to_try_again(
    tmp_path: Path,
) -> None:
    async def test(agent: Served) -> None:
        held = Held(agent.bench)
        callers = [await add(agent, number) for number in range(2)]
        await held.until(2)
        callers.append(await add(agent, 2))
        await wait_until(lambda: agent.agent.slots.waiting == 1)
        status, error = await (await add(agent, 3)).json()
        assert (status, error["code"]) == (1, 11)
        assert "2 calls are under way and 1 wait" in error["details"]
        assert held.reached == 2
        # What needs no turn has none.
        assert (await agent.asked("VERSION"))[0] == 0
        assert (await agent.asked("STATUS"))[1]["code"] == 50
        assert (await agent.question("nothing")).status == 1
        held.let_go()
        for caller in callers:
            assert (await caller.json())[0] == 0

    run(tmp_path, test, at_once=2, waiting=1)


def test_connections_beyond_all_bounds_wait_and_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SPARE", 0)

    async def test(agent: Served) -> None:
        held = Held(agent.bench)
        callers = [await add(agent, number) for number in range(8)]
        await held.until(1)
        assert agent.agent.open == 3
        held.let_go()
        for caller in callers:
            assert (await caller.json())[0] == 0
        assert agent.agent.counts.connections == 8

    run(tmp_path, test, at_once=1, waiting=2)


def test_requests_hold_only_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_HELD", 4096)

    async def test(agent: Served) -> None:
        held = Held(agent.bench)
        first = await add(agent, 0)
        await held.until(1)
        _, error = await agent.asked("ADD", stdin=b" " * 4000)
        assert error["code"] == 11
        held.let_go()
        assert (await first.json())[0] == 0
        assert (await (await add(agent, 1)).json())[0] == 0

    run(tmp_path, test)


def test_a_call_that_takes_too_long_is_undone_and_told_to_come_again(tmp_path: Path) -> None:
    async def test(agent: Served) -> None:
        Held(agent.bench)
        status, error = await agent.asked("ADD")
        assert (status, error["code"]) == (1, 11)
        assert "took over" in error["msg"]
        assert agent.bench.nothing_left()

    run(tmp_path, test, timeout=0.2)


def test_a_caller_that_hangs_up_has_its_call_undone(tmp_path: Path) -> None:
    async def test(agent: Served) -> None:
        held = Held(agent.bench)
        caller = await add(agent, 0)
        await held.until(1)
        assert not agent.bench.nothing_left()
        caller.hang_up()
        await wait_until(lambda: not agent.agent.open)
        assert agent.bench.nothing_left()
        assert agent.agent.counts.hung_up == 1

    run(tmp_path, test)


def test_a_caller_that_hangs_up_while_it_waits_gives_its_place_up(tmp_path: Path) -> None:
    async def test(agent: Served) -> None:
        held = Held(agent.bench)
        first, second = await add(agent, 0), await add(agent, 1)
        await wait_until(lambda: agent.agent.slots.waiting == 1)
        second.hang_up()
        await wait_until(lambda: agent.agent.slots.waiting == 0)
        third = await add(agent, 2)
        held.let_go()
        assert [(await caller.json())[0] for caller in (first, third)] == [0, 0]
        assert held.reached == 2

    run(tmp_path, test, at_once=1, waiting=1)


def test_who_is_not_root_is_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "uid_of_peer", lambda connection: os.geteuid() + 1)

    async def test(agent: Served) -> None:
        caller = await agent.connect()
        assert await caller.bytes() == b""
        caller.hang_up()
        assert agent.agent.counts.refused == 1

    run(tmp_path, test)


def test_two_calls_for_one_container_at_once_have_one_result(tmp_path: Path) -> None:
    async def test(agent: Served) -> None:
        answers = await asyncio.gather(*(agent.asked("ADD") for _ in range(5)))
        assert all(answer == answers[0] for answer in answers)
        assert len(agent.bench.ipam.holders) == 1

    run(tmp_path, test)


def test_what_is_under_way_is_finished_before_the_agent_stops(tmp_path: Path) -> None:
    async def test(agent: Served) -> None:
        held = Held(agent.bench)
        callers = [await add(agent, number) for number in range(3)]
        await held.until(1)
        stop = asyncio.ensure_future(agent.agent.stop(10, agent.socket))
        await asyncio.sleep(0)
        assert not agent.socket.exists()
        held.let_go()
        await stop
        assert [(await caller.json())[0] for caller in callers] == [0, 0, 0]

    run(tmp_path, test, at_once=1)


def test_what_does_not_end_is_undone_when_the_agent_stops(tmp_path: Path) -> None:
    async def test(agent: Served) -> None:
        held = Held(agent.bench)
        callers = [await add(agent, number) for number in range(2)]
        await held.until(1)
        await agent.agent.stop(0.05, agent.socket)
        assert [(await caller.json())[1]["code"] for caller in callers] == [11, 11]
        assert agent.bench.nothing_left()

    run(tmp_path, test, at_once=1)


def test_a_configuration_that_changes_is_read_anew_and_its_faults_are_told(tmp_path: Path) -> None:
    async def test(agent: Served) -> None:
        assert (await agent.asked("ADD"))[0] == 0
        good = agent.config.read_text()
        agent.config.write_text("cluster: [x]\nstate_dri: /x\n")
        _, error = await agent.asked("ADD")
        assert error["code"] == 7
        assert "cluster" in error["details"] and "state_dri" in error["details"]
        agent.config.write_text(good)
        assert (await agent.asked("ADD"))[0] == 0

    run(tmp_path, test)


class Noting(Witness):
    def __init__(self) -> None:
        self.noted: list[str] = []

    def succeeded(self, invocation: Invocation, networks: Sequence[NetworkView]) -> None:
        self.noted += [invocation.command, *(network.name for network in networks)]

    def left_pending(self) -> None:
        self.noted.append("pending")


def test_who_looks_after_the_node_hears_of_changes_and_of_what_is_left(tmp_path: Path) -> None:
    witness = Noting()

    async def test(agent: Served) -> None:
        await agent.asked("ADD")
        agent.bench.ipam.refuse["release"] = AWAY
        assert await agent.asked("DEL") == (0, {})
        agent.bench.ipam.refuse.clear()
        assert await agent.asked("DEL") == (0, {})
        assert witness.noted == ["ADD", "net", "DEL", "pending", "DEL"]

    run(tmp_path, test, witness)


def add(agent: Served, number: int) -> Coroutine[Any, Any, Any]:
    """A caller that has asked for an ADD of a pod of its own."""
    return agent.call("ADD", container=f"c{number}", netns=f"/ns/{number}", pod=f"web-{number}")
