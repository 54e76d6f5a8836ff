"""The CNI executable without an agent, with one that fails, and how long it waits."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

import pytest

from cni_plugins import frames
from cni_plugins.frames import Answer
from tests.unit import launcher_bench as bench
from tests.unit.launcher_bench import (
    DONE,
    LONG,
    Agent,
    Builds,
    Node,
    Outcome,
    answering,
    call,
    error,
    forever,
    receive,
    run,
    sending,
)

pytestmark = bench.NEEDS_COMPILER


@pytest.fixture(scope="module", params=["static", "sanitized"])
def builds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Builds:
    return bench.build(tmp_path_factory.mktemp("launcher"), request.param == "sanitized")


@pytest.fixture
def node(builds: Builds, tmp_path: Path) -> Node:
    return Node(tmp_path, builds.patient, builds.double)


@pytest.fixture
def impatient(builds: Builds, tmp_path: Path) -> Node:
    """A node whose executables wait for SOON_MS."""
    return Node(tmp_path, builds.impatient, builds.double)


# The complete plugin


def given_to_plugin(found: Outcome) -> tuple[list[str], list[str], str]:
    """Arguments, variables and the rest of what the plugin double says."""
    assert found.status == 3
    lines = found.stdout.decode().split("\n")
    arguments = [line.removeprefix("argument ") for line in lines if line.startswith("argument ")]
    variables = [line.removeprefix("variable ") for line in lines if line.startswith("variable ")]
    assert lines[0] == "pipe as it came"
    assert not [line for line in lines if line.startswith("descriptor ")]
    return arguments, variables, lines[-1]


@pytest.mark.parametrize("name", ["netspace", "netspace-ipam"])
def test_without_a_socket_the_plugin_runs_with_everything_as_it_was(node: Node, name: str) -> None:
    node.install_complete_plugin()
    stdin = b"x" * 2_000_000
    found = run(node.call(stdin, {"CNI_COMMAND": "DEL", "OTHER": "1"}, name=name))
    arguments, variables, rest = given_to_plugin(found)
    assert arguments == [str(node.folder / name)]
    assert variables == ["CNI_COMMAND=DEL", "OTHER=1"]
    assert rest.encode() == stdin


def test_a_socket_that_nobody_listens_on_is_as_none(node: Node) -> None:
    node.install_complete_plugin()
    with socket.socket(socket.AF_UNIX) as once:
        once.bind(str(node.socket))
    assert given_to_plugin(run(node.call(b"in")))[2] == "in"


def test_the_plugin_lies_beside_the_executable_that_a_link_leads_to(node: Node) -> None:
    node.install_complete_plugin()
    elsewhere = node.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "netspace").symlink_to(node.folder / "netspace")
    found = run(node.call(b"in", name="elsewhere/netspace"))
    assert given_to_plugin(found)[0] == [str(elsewhere / "netspace")]


def test_neither_agent_nor_plugin_is_an_error_that_says_so(node: Node) -> None:
    said = error(run(node.call()), 11)
    assert "the agent is not running" in said
    assert f"{node.folder}/netspace-plugin/netspace: No such file or directory" in said


async def closes(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


async def reads_a_little(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(1)


async def reads_everything(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await receive(reader)


@pytest.mark.parametrize("agent", [closes, reads_a_little, reads_everything])
@pytest.mark.parametrize("stdin", [b"{}", b"x" * 1_000_000])
def test_after_a_connection_the_plugin_is_never_executed(
    node: Node, agent: Agent, stdin: bytes
) -> None:
    node.install_complete_plugin()
    assert "the agent did not answer" in error(call(node, agent, stdin), 11)


def test_an_answer_that_ends_at_any_byte_is_an_error_and_nothing_of_it_is_copied(
    node: Node,
) -> None:
    node.install_complete_plugin()
    whole = frames.encode_answer(DONE)

    async def work() -> list[Outcome]:
        found = []
        for end in range(len(whole)):
            async with node.agent(sending(whole[:end])):
                found.append(await node.call())
        return found

    for found in run(work()):
        assert "it closed" in error(found, 11)


@pytest.mark.parametrize(
    "data",
    [
        b"NSA2" + bytes(8),
        b"HTTP/1.1 400 Bad Request\r\n",
        b"NSA1\2\0\0\0\0\0\0\0",
        b"NSA1\0\0\0\0\1\0\x40\0",
        b"NSA1\0\0\0\0\xff\xff\xff\xff",
        b"NSA1\0\0\0\x80\0\0\0\0",
    ],
)
def test_what_is_no_answer_is_an_error(node: Node, data: bytes) -> None:
    assert "what came is no answer" in error(call(node, sending(data)), 11)


# Waiting


def test_an_agent_that_never_answers_is_an_error_in_time(impatient: Node) -> None:
    started = time.monotonic()
    assert "timed out" in error(call(impatient, forever), 11)
    assert bench.SOON_MS / 1000 <= time.monotonic() - started < LONG / 2


def test_an_agent_that_never_reads_is_an_error_in_time(impatient: Node) -> None:
    async def work() -> Outcome:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(impatient.socket))
            listening.listen()
            return await impatient.call(b"x" * 1_000_000)

    assert "timed out" in error(run(work()), 11)


def test_standard_input_that_does_not_end_is_an_error_in_time(impatient: Node) -> None:
    async def work() -> Outcome:
        async with impatient.agent(forever):
            process = await impatient.start()
            assert process.stdout and process.stderr and process.stdin
            said = await process.stdout.read(), await process.stderr.read()
            process.stdin.close()
            return await bench.outcome(process, *said)

    assert "standard input does not end" in error(run(work()), 5)


def fill(path: Path) -> tuple[socket.socket, list[socket.socket]]:
    """A socket that listens, and connections that leave no room in its backlog."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(0)
    waiting = []
    while True:
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        waiting.append(one)
        try:
            one.connect(str(path))
        except BlockingIOError:
            return listening, waiting


def test_a_full_backlog_is_an_error_in_time_and_nothing_is_executed(impatient: Node) -> None:
    impatient.install_complete_plugin()
    listening, waiting = fill(impatient.socket)
    try:
        assert "too busy" in error(run(impatient.call()), 11)
    finally:
        for one in (listening, *waiting):
            one.close()


def test_room_in_a_full_backlog_is_waited_for_also_when_stopped_meanwhile(node: Node) -> None:
    listening, waiting = fill(node.socket)

    async def ignoring_silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answering(DONE)(reader, writer)
        except asyncio.IncompleteReadError:
            return

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ignoring_silence(reader, writer)
        writer.close()

    async def work() -> Outcome:
        process = await node.start()
        for number in (signal.SIGSTOP, signal.SIGCONT):
            await asyncio.sleep(0.05)
            process.send_signal(number)
        for one in waiting:
            one.close()
        server = await asyncio.start_unix_server(served, sock=listening)
        try:
            return await bench.outcome(process, *await process.communicate(b"{}"))
        finally:
            server.close()
            await server.wait_closed()

    try:
        assert run(work()) == (0, DONE.stdout, b"")
    finally:
        for one in (listening, *waiting):
            one.close()


def test_a_call_while_the_agent_starts_anew_waits_in_the_socket_that_stays(node: Node) -> None:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(DONE)(reader, writer)
        writer.close()

    async def work(listening: socket.socket) -> Outcome:
        process = await node.start()
        said = asyncio.create_task(process.communicate(b"{}"))
        await asyncio.sleep(0.2)
        assert not said.done()
        server = await asyncio.start_unix_server(served, sock=listening)
        try:
            return await bench.outcome(process, *await said)
        finally:
            server.close()
            await server.wait_closed()

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(node.socket))
        listening.listen()
        assert run(work(listening)) == (0, DONE.stdout, b"")


def test_stopping_and_going_on_while_it_waits_changes_nothing(node: Node) -> None:
    arrived = asyncio.Event()
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await receive(reader)
        arrived.set()
        await go_on.wait()
        writer.write(frames.encode_answer(Answer(0, request.stdin)))

    async def work() -> Outcome:
        async with node.agent(serve):
            process = await node.start()
            said = asyncio.create_task(process.communicate(b"in"))
            await arrived.wait()
            for number in (signal.SIGSTOP, signal.SIGCONT) * 3:
                process.send_signal(number)
                await asyncio.sleep(0.02)
            go_on.set()
            return await bench.outcome(process, *await said)

    assert run(work()) == (0, b"in", b"")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_agent_sees_that_the_executable_was_killed(node: Node, number: signal.Signals) -> None:
    ended = asyncio.Event()
    arrived = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        arrived.set()
        assert await reader.read() == b""
        ended.set()

    async def work() -> int:
        async with node.agent(serve):
            process = await node.start()
            said = asyncio.create_task(process.communicate(b"{}"))
            await arrived.wait()
            assert not ended.is_set()
            process.send_signal(number)
            await ended.wait()
            assert await said == (b"", b"")
            return await process.wait()

    assert run(work()) == -number
