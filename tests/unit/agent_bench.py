"""An agent in the test's process, on a node in memory, and callers as the launchers are."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from cni_plugins import frames, sockets
from cni_plugins.attachment import Host
from cni_plugins.frames import Answer, Question, Request
from cni_plugins.hosts import Hosts
from cni_plugins.node_config import AgentSection
from cni_plugins.serving import Agent, Witness
from netspace.messages import AllocateRequest, Allocation
from tests.unit.cni_bench import Bench
from tests.unit.cni_doubles import CONTAINER, NETNS


class Held:
    """Stops ADDs before they are given a slot until they may go on; `reached` are so many."""

    def __init__(self, bench: Bench) -> None:
        self.reached = 0
        self._gate = asyncio.Event()
        allocate = bench.ipam.allocate

        async def waiting(cluster: str, request: AllocateRequest) -> Allocation:
            self.reached += 1
            await self._gate.wait()
            return await allocate(cluster, request)

        bench.ipam.allocate = waiting  # type: ignore[method-assign]

    def let_go(self) -> None:
        self._gate.set()

    async def until(self, count: int) -> None:
        await wait_until(lambda: self.reached >= count)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class Caller:
    """One connection to the agent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def hang_up(self) -> None:
        self.writer.close()

    async def bytes(self) -> bytes:
        """All that the agent answers until it closes."""
        async with asyncio.timeout(10):
            return await self.reader.read()

    async def answer(self) -> Answer:
        try:
            return frames.decode(frames.answer_reader(), await self.bytes())
        finally:
            self.hang_up()

    async def json(self) -> tuple[int, dict[str, Any]]:
        """Exit status, and the object on standard output, empty where there is nothing."""
        status, stdout = await self.answer()
        return status, json.loads(stdout) if stdout else {}


class Served:
    """The agent that serves `socket`, and its node."""

    def __init__(
        self, bench: Bench, agent: Agent, path: Path, config: Path, witness: Witness | None
    ) -> None:
        self.bench, self.agent, self.socket, self.config = bench, agent, path, config
        self.witness = witness
        self._callers: list[Caller] = []

    async def connect(self) -> Caller:
        self._callers.append(Caller(*await asyncio.open_unix_connection(self.socket)))
        return self._callers[-1]

    async def hang_up(self) -> None:
        """Ends all connections."""
        for caller in self._callers:
            caller.hang_up()
            with suppress(OSError):
                await caller.writer.wait_closed()

    async def call(self, command: str = "ADD", **changes: Any) -> Caller:
        """A caller that has sent a request."""
        caller = await self.connect()
        caller.send(frames.encode_request(self.request(command, **changes)))
        return caller

    async def asked(self, command: str = "ADD", **changes: Any) -> tuple[int, dict[str, Any]]:
        """The answer to a request."""
        return await (await self.call(command, **changes)).json()

    async def question(self, name: str) -> Answer:
        caller = await self.connect()
        caller.send(frames.encode_question(Question(name)))
        return await caller.answer()

    def request(
        self,
        command: str = "ADD",
        *,
        container: str = CONTAINER,
        netns: str = NETNS,
        pod: str = "web-0",
        stdin: bytes | None = None,
        **conf: Any,
    ) -> Request:
        values = {
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "netspace",
            "ipam": {"type": "netspace-ipam", "config": str(self.config)},
            **conf,
        }
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=u-{pod}",
        }
        return Request(
            "netspace", variables, json.dumps(values).encode() if stdin is None else stdin
        )


@asynccontextmanager
async def served(
    folder: Path, witness: Witness | Callable[[Hosts], Witness] | None = None, **limits: Any
) -> AsyncIterator[Served]:
    """An agent with these limits on a fresh node; a witness may be made for its hosts."""
    bench = Bench(folder / "state")
    config = folder / "node.yaml"
    config.write_text(
        json.dumps(
            {
                "cluster": "c1",
                "node": "node-1",
                "state_dir": str(folder / "state"),
                "server": {"endpoints": [f"unix://{folder}/nobody.sock"]},
            }
        )
    )

    def in_memory(host: Host) -> Host:
        return bench.host(cluster=host.cluster, lock_wait=5, pods=host.pods)

    hosts = Hosts(bench.wiring, {}, in_memory)
    told = witness if witness is None or isinstance(witness, Witness) else witness(hosts)
    agent = Agent(hosts, AgentSection(**limits), told)
    path = folder / "cni.sock"
    listener = listening(path)
    agent.serve(listener)
    serving = Served(bench, agent, path, config, told)
    try:
        yield serving
    finally:
        await serving.hang_up()
        await agent.stop(1, path)
        await hosts.close()


def listening(path: Path) -> socket.socket:
    """A socket as the agent makes it."""
    listener, handed_over = sockets.listener(path)
    assert not handed_over
    return listener
