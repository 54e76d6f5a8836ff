"""The CNI executable: what it hands to the agent, what it answers and what it refuses."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import subprocess
from pathlib import Path

import pytest

from cni_plugins import frames
from cni_plugins.frames import Answer, Request
from tests.unit import launcher_bench as bench
from tests.unit.launcher_bench import (
    DONE,
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


# What is handed over, and what comes back


@pytest.mark.parametrize("name", ["netspace", "netspace-ipam"])
def test_the_agent_gets_name_cni_variables_and_standard_input(node: Node, name: str) -> None:
    seen: list[Request] = []
    variables = {"CNI_COMMAND": "ADD", "CNI_ARGS": "A=1;B=2", "CNI_NETNS": "", "PATH": "/x"}

    async def work() -> Outcome:
        async with node.agent(answering(DONE, seen)):
            return await node.call(b'{"name":"net"}', variables, name=name)

    assert run(work()) == (0, DONE.stdout, b"")
    del variables["PATH"]
    assert seen == [
        Request("netspace" if name == "netspace" else "netspace-ipam", variables, b'{"name":"net"}')
    ]


@pytest.mark.parametrize("answer", [DONE, Answer(0, b""), Answer(1, b"{}\n"), Answer(0, b"\0\xff")])
def test_the_answer_goes_to_standard_output_byte_by_byte(node: Node, answer: Answer) -> None:
    assert call(node, answering(answer)) == (answer.status, answer.stdout, b"")


def test_the_largest_answer_is_copied_in_full(node: Node) -> None:
    answer = Answer(0, bytes(range(256)) * (frames.MAX_STDOUT // 256))
    assert call(node, answering(answer)).stdout == answer.stdout


def test_an_answer_that_comes_in_single_bytes_is_put_together(node: Node) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        for byte in frames.encode_answer(DONE):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    assert call(node, serve).stdout == DONE.stdout


def test_what_follows_an_answer_is_not_copied(node: Node) -> None:
    assert call(node, sending(frames.encode_answer(DONE) + b"more")).stdout == DONE.stdout


def test_a_slow_agent_is_waited_for(node: Node) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        await answering(DONE)(reader, writer)

    assert call(node, serve).stdout == DONE.stdout


def test_an_agent_that_reads_slowly_gets_everything(node: Node) -> None:
    seen: list[Request] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def slowly(length: int) -> bytes:
            parts = []
            while length:
                part = await reader.read(min(length, 50_000))
                await asyncio.sleep(0.001)
                parts.append(part)
                length -= len(part)
            return b"".join(parts)

        seen.append(await frames.receive(frames.request_reader(), slowly))
        writer.write(frames.encode_answer(DONE))

    stdin = b"x" * 1_000_000
    assert call(node, serve, stdin).stdout == DONE.stdout
    assert seen[0].stdin == stdin


def test_too_long_an_input_is_read_to_one_byte_over_the_limit(node: Node) -> None:
    seen: list[Request] = []
    call(node, answering(DONE, seen), b"x" * 3_000_000)
    assert len(seen[0].stdin) == frames.MAX_STDIN


def test_standard_input_that_comes_in_parts_is_put_together(node: Node) -> None:
    seen: list[Request] = []

    async def work() -> None:
        async with node.agent(answering(DONE, seen)):
            process = await node.start()
            assert process.stdin
            for part in (b"one", b"two", b"three"):
                process.stdin.write(part)
                await process.stdin.drain()
                await asyncio.sleep(0.02)
            await process.communicate(b"")

    run(work())
    assert seen[0].stdin == b"onetwothree"


def test_version_does_not_wait_for_standard_input(node: Node) -> None:
    async def work() -> bytes:
        async with node.agent(answering(DONE)):
            process = await node.start({"CNI_COMMAND": "VERSION"})
            assert process.stdout and process.stdin
            said = await process.stdout.read()
            assert await process.wait() == 0
            process.stdin.close()
            return said

    assert run(work()) == DONE.stdout


def test_a_terminal_as_standard_input_is_not_waited_for(node: Node) -> None:
    seen: list[Request] = []

    async def work(terminal: int) -> Outcome:
        async with node.agent(answering(DONE, seen)):
            process = await node.start(stdin=terminal)
            return await bench.outcome(process, *await process.communicate())

    master, slave = pty.openpty()
    try:
        assert run(work(slave)).stdout == DONE.stdout
    finally:
        os.close(master)
        os.close(slave)
    assert seen[0].stdin == b""


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-", "<&- >&- 2>&-", ">&-"])
def test_streams_that_come_closed_mix_nothing_up(node: Node, closed: str) -> None:
    left: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(Answer(1, b"answer"))(reader, writer)
        left.append(await reader.read())

    async def work() -> tuple[int, bytes]:
        async with node.agent(serve):
            shell = await asyncio.create_subprocess_shell(
                f"./netspace {closed}",
                cwd=node.folder,
                env={"CNI_COMMAND": "ADD"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            said, _ = await shell.communicate()
            return await shell.wait(), said

    assert run(work()) == (1, b"" if ">&-" in closed.split() else b"answer")
    assert left == [b""]


# Standard output


def test_a_runtime_that_went_away_is_one_line_and_status_1(node: Node) -> None:
    async def work() -> Outcome:
        gone, output = os.pipe()
        os.close(gone)
        async with node.agent(answering(DONE)):
            process = await node.start(stdout=output)
            os.close(output)
            _, said = await process.communicate(b"{}")
            return await bench.outcome(process, b"", said)

    found = run(work())
    assert found.status == 1
    assert found.stderr == b"netspace: standard output cannot be written: Broken pipe\n"


def test_an_output_that_does_not_block_is_written_in_full(node: Node) -> None:
    answer = Answer(0, b"y" * 1_000_000)

    async def work() -> tuple[int, bytes]:
        taken, output = os.pipe()
        os.set_blocking(output, False)
        async with node.agent(answering(answer)):
            process = await node.start(stdin=subprocess.DEVNULL, stdout=output)
            os.close(output)
            with os.fdopen(taken, "rb") as file:
                said = await asyncio.to_thread(file.read)
            await process.communicate()
            return await process.wait(), said

    assert run(work()) == (0, answer.stdout)


# Refusals


def test_a_variable_over_the_limit_is_named(node: Node) -> None:
    long = "x" * (frames.MAX_VARIABLE - len("CNI_ARGS=") + 1)
    assert "CNI_ARGS: shorten" in error(
        call(node, answering(DONE), variables={"CNI_ARGS": long}), 4
    )
    assert call(node, answering(DONE), variables={"CNI_ARGS": long[1:]}).stdout == DONE.stdout


def test_too_many_variables_are_refused(node: Node) -> None:
    many = {f"CNI_{index}": "x" for index in range(frames.MAX_VARIABLES)}
    assert "over 64" in error(call(node, answering(DONE), variables=many), 4)


def test_what_is_no_assignment_is_left_out(node: Node) -> None:
    seen: list[Request] = []
    variables = {"CNI_COMMAND": "ADD", "CNI": "1", "XCNI_ARGS": "1", "cni_args": "1"}
    call(node, answering(DONE, seen), variables=variables)
    assert seen[0].variables == {"CNI_COMMAND": "ADD"}


@pytest.mark.parametrize("name", ["bridge", "netspace-agent", "netspac", 'net"\\\u00e9\n'])
def test_another_name_is_refused(node: Node, name: str) -> None:
    (node.folder / name).symlink_to("netspace")
    node.install_complete_plugin()
    assert "not netspace or netspace-ipam" in error(run(node.call(name=name)), 7)


def test_a_socket_of_another_kind_is_an_error_and_nothing_is_executed(node: Node) -> None:
    node.install_complete_plugin()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(node.socket))
        assert "cannot connect to the agent: cni.sock: " in error(run(node.call()), 5)


def test_standard_input_that_cannot_be_read_is_an_error(node: Node) -> None:
    async def work(folder: int) -> Outcome:
        async with node.agent(forever):
            process = await node.start(stdin=folder)
            return await bench.outcome(process, *await process.communicate())

    folder = os.open(node.folder, os.O_RDONLY)
    try:
        assert "standard input cannot be read: Is a directory" in error(run(work(folder)), 5)
    finally:
        os.close(folder)
