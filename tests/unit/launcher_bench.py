"""The CNI executable as a runtime starts it, and stub agents for it to find, or not.

The executables of the tests look for the socket in their working folder, so every test has its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import pytest

from cni_plugins import frames
from cni_plugins.frames import Answer, Request
from lab import launcher, programs

SOCKET: Final = "cni.sock"
SOON_MS: Final = 400
"""How long the impatient executables wait for everything; the others as long as the real one."""
DEFINES: Final = {"SOCKET_PATH": f'"{SOCKET}"'}
IMPATIENT: Final = {**DEFINES, "WAIT_MS": str(SOON_MS)}

PLUGIN_DOUBLE: Final = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
int main(int argc, char **argv, char **environment) {
    struct sigaction pipe;
    sigaction(SIGPIPE, 0, &pipe);
    printf("%s\n", pipe.sa_handler == SIG_IGN ? "pipe ignored" : "pipe as it came");
    for (int fd = 3; fd < 64; fd++)
        if (fcntl(fd, F_GETFD) >= 0) printf("descriptor %d\n", fd);
    for (int i = 0; i < argc; i++) printf("argument %s\n", argv[i]);
    for (; *environment; environment++) printf("variable %s\n", *environment);
    for (int c; (c = getchar()) != EOF;) putchar(c);
    return 3;
}
"""
"""A complete plugin that says what it was given, its standard input last, and ends with 3."""

NEEDS_COMPILER: Final = pytest.mark.skipif(
    programs.lookup(launcher.COMPILER) is None,
    reason=f"needs {launcher.COMPILER}, which is not on this machine",
)

DONE: Final = Answer(0, b'{"cniVersion":"1.0.0"}')
LONG: Final = 20.0
"""Seconds for a test that hangs."""

T = TypeVar("T")
Agent = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Outcome(NamedTuple):
    """What became of one start."""

    status: int
    stdout: bytes
    stderr: bytes


class Builds(NamedTuple):
    """The folder with the executables of one way to build, and the plugin double."""

    patient: Path
    impatient: Path
    double: Path


def build(folder: Path, sanitized: bool) -> Builds:
    """Compiles everything that a test needs into a folder."""
    compiled = launcher.build_sanitized if sanitized else launcher.build
    builds = Builds(folder / "patient", folder / "impatient", folder / "double")
    compiled(builds.patient, DEFINES)
    compiled(builds.impatient, IMPATIENT)
    source = folder / "double.c"
    source.write_text(PLUGIN_DOUBLE)
    subprocess.run([launcher.COMPILER, "-o", builds.double, source], check=True)
    return builds


class Node:
    """A folder with the executable under both names, the complete plugin not installed yet."""

    def __init__(self, folder: Path, executable: Path, double: Path) -> None:
        self.folder = folder
        self._double = double
        for name in launcher.NAMES:
            os.link(executable, folder / name)

    @property
    def socket(self) -> Path:
        return self.folder / SOCKET

    def install_complete_plugin(self) -> None:
        (self.folder / "netspace-plugin").mkdir()
        for name in launcher.NAMES:
            os.link(self._double, self.folder / "netspace-plugin" / name)

    @asynccontextmanager
    async def agent(self, serve: Agent, backlog: int = 16) -> AsyncIterator[None]:
        """Serves connections with a coroutine, and closes each after it."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_unix_server(connected, self.socket, backlog=backlog)
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()

    async def start(
        self,
        variables: dict[str, str] | None = None,
        *,
        name: str = "netspace",
        environ: dict[bytes, bytes] | None = None,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        """Starts the executable; `variables` come on top of CNI_COMMAND=ADD."""
        return await asyncio.create_subprocess_exec(
            self.folder / name,
            cwd=self.folder,
            env=environ or {"CNI_COMMAND": "ADD", **(variables or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )

    async def call(
        self,
        stdin: bytes = b"{}",
        variables: dict[str, str] | None = None,
        *,
        name: str = "netspace",
        environ: dict[bytes, bytes] | None = None,
    ) -> Outcome:
        """Starts the executable and waits for its end."""
        process = await self.start(variables, name=name, environ=environ)
        stdout, stderr = await process.communicate(stdin)
        return await outcome(process, stdout, stderr)


async def outcome(process: asyncio.subprocess.Process, stdout: bytes, stderr: bytes) -> Outcome:
    status = await process.wait()
    assert b"Sanitizer" not in stderr and b"runtime error" not in stderr, stderr.decode()
    return Outcome(status, stdout, stderr)


async def receive(reader: asyncio.StreamReader) -> Request:
    return await frames.receive(frames.request_reader(), reader.readexactly)


def answering(answer: Answer, seen: list[Request] | None = None) -> Agent:
    """An agent that gives everybody this answer and remembers what it was asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await receive(reader)
        if seen is not None:
            seen.append(request)
        writer.write(frames.encode_answer(answer))
        await writer.drain()

    return serve


def sending(data: bytes) -> Agent:
    """An agent that sends these bytes for an answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        writer.write(data)
        await writer.drain()

    return serve


def run(work: Coroutine[None, None, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, LONG))


def call(
    node: Node, agent: Agent, stdin: bytes = b"{}", variables: dict[str, str] | None = None
) -> Outcome:
    """One call while this agent serves."""

    async def work() -> Outcome:
        async with node.agent(agent):
            return await node.call(stdin, variables)

    return run(work())


def error(found: Outcome, code: int) -> str:
    """The error object's message and details, once it is a whole one."""
    assert found.status == 1
    answer = json.loads(found.stdout)
    assert (answer["cniVersion"], answer["code"]) == ("1.0.0", code)
    assert found.stderr.count(b"\n") == 1
    return f"{answer['msg']}: {answer['details']}"


def forever(*_: object) -> Coroutine[None, None, None]:
    return asyncio.sleep(LONG)
