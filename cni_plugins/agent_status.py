"""What the running agent says of itself, and how `netspace-agent status` asks for and shows it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

import netspace
from cni_plugins import frames
from cni_plugins.frames import Question
from cni_plugins.hosts import Hosts, Kept
from cni_plugins.kubernetes.telling import EventCounts, Teller
from cni_plugins.making import Maker
from cni_plugins.node_config import NodeConfig
from cni_plugins.reporting import logical_cards
from cni_plugins.rounds import Rounds, Said
from cni_plugins.serving import Agent
from cni_plugins.steps import in_thread
from hostnet import Kernel
from netspace.messages import LinkReport
from netspace.problems import Problem

ANSWER_TIME: Final = 10.0
"""Seconds that the agent may take to answer a question."""


class AgentStatus(msgspec.Struct, kw_only=True):
    """The agent as it is now. `calls`: how many of each command ended how since it started, `done`
    or the code. `server`: empty where one is ready, else why none is. `said`: what came of reports
    and releases when they were last tried. `events`: those on pods, None where they are not
    wanted. `links`: bonds, VLANs and networks' parents. `maker`: the process that makes
    interfaces, None where the agent makes them itself since that one has ended. `memory_mib`: of
    both its processes, and twice what they share. Moments are RFC 3339, in UTC."""

    version: str
    pid: int
    since: str
    configuration: str
    cluster: str
    node: str
    at_work: int
    waiting: int
    connections: int
    refused: int
    malformed: int
    hung_up: int
    calls: dict[str, dict[str, int]]
    server: str
    endpoints: list[str]
    attachments: int
    pending: int
    said: dict[str, Said]
    events: EventCounts | None
    links: list[LinkReport]
    maker: int | None
    memory_mib: float


class Picture(msgspec.Struct):
    """What a status is put together from."""

    agent: Agent
    rounds: Rounds
    hosts: Hosts
    path: Path
    kernel: Kernel
    teller: Teller
    maker: Maker
    since: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))


async def status_of(picture: Picture) -> bytes:
    """The status as JSON."""
    agent, counts = picture.agent, picture.agent.counts
    with picture.hosts.using(str(picture.path)) as kept:
        config = kept.config
        parents = {network.parent for network in picture.rounds.networks or ()}
        parents |= {bond.name for bond in config.bonds}
        records = await in_thread(kept.host.records.all)
        status = AgentStatus(
            version=netspace.__version__,
            pid=os.getpid(),
            since=picture.since.isoformat(timespec="seconds"),
            configuration=str(picture.path),
            cluster=config.cluster,
            node=config.node_name,
            at_work=agent.slots.busy,
            waiting=agent.slots.waiting,
            connections=counts.connections,
            refused=counts.refused,
            malformed=counts.malformed,
            hung_up=counts.hung_up,
            calls={command: dict(ended) for command, ended in counts.calls.items()},
            server=await _why_not_ready(kept),
            endpoints=list(config.server.endpoints),
            attachments=len(records),
            pending=sum(record.pending for record in records),
            said=picture.rounds.said,
            events=picture.teller.counts if _tells(config) else None,
            links=await picture.kernel.run(None, lambda net: logical_cards(net, parents)),
            maker=None if picture.maker.gone else picture.maker.pid,
            memory_mib=round((_memory() + _memory(picture.maker.pid)) / 2**20, 1),
        )
    return msgspec.json.encode(status)


def ask(path: Path, question: str) -> bytes:
    """What the agent that listens at the path answers. Raises `Problem` `unavailable`."""
    deadline = time.monotonic() + ANSWER_TIME
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIME)
            connection.connect(str(path))
            connection.sendall(frames.encode_question(Question(question)))
            answer = bytearray()
            while part := connection.recv(65536):
                answer += part
                connection.settimeout(max(0.01, deadline - time.monotonic()))
        status, output = frames.decode(frames.answer_reader(), bytes(answer))
    except OSError as error:
        raise _no_answer(path, error.strerror or str(error)) from None
    except frames.FrameError as error:
        raise _no_answer(path, f"its answer cannot be read: {error}") from None
    if status:
        raise _no_answer(path, output.decode(errors="replace"))
    return output


def lines_of(status: AgentStatus) -> Iterator[str]:
    """The status for a person."""
    yield f"netspace-agent {status.version}, process {status.pid}, since {status.since}"
    yield f"node {status.node} of cluster {status.cluster}, by {status.configuration}"
    urls = ", ".join(status.endpoints)
    yield f"server: ready ({urls})" if not status.server else f"server: NOT READY: {status.server}"
    yield f"attachments: {status.attachments}, of which {status.pending} wait to be released"
    yield (
        f"calls: {status.at_work} under way, {status.waiting} waiting; {status.connections} came, "
        f"{status.hung_up} hung up, {status.malformed} were malformed, {status.refused} refused"
    )
    for command, ended in sorted(status.calls.items()):
        codes = (
            f"{count} {'done' if how == 'done' else f'with code {how}'}"
            for how, count in sorted(ended.items(), reverse=True)
        )
        yield f"  {command}: {', '.join(codes)}"
    for subject, said in status.said.items():
        yield f"{subject}: {said.said} ({said.at})"
    if (told := status.events) is not None:
        yield (
            f"events: {told.posted} posted, {told.waiting} waiting, {told.dropped} dropped, "
            f"{told.failed} failed" + (f" (the last: {told.why})" if told.why else "")
        )
    for link in status.links:
        yield f"link {_link(link)}"
    if status.maker is None:
        yield "interfaces: THE SECOND PROCESS HAS ENDED, bursts are slower until a restart"
    else:
        yield f"interfaces: of several pods at once made by process {status.maker}"
    yield f"memory: {status.memory_mib} MiB"


def _link(link: LinkReport) -> str:
    parts = [link.kind, "up" if link.up else "DOWN", f"MTU {link.mtu}", link.mac]
    if link.parent is not None:
        parts.append(f"VLAN {link.vlan} on {link.parent}")
    if link.slaves:
        parts.append(f"over {' '.join(link.slaves)}")
    return f"{link.name}: {', '.join([*parts, *link.addresses])}"


def _tells(config: NodeConfig) -> bool:
    return config.kubernetes is not None and config.kubernetes.events


async def _why_not_ready(kept: Kept) -> str:
    try:
        await kept.asking.ready()
    except Problem as problem:
        return problem.detail
    return ""


def _memory(pid: int | Literal["self"] = "self") -> int:
    """Bytes of memory that are the process's now (proc(5), statm); 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _no_answer(path: Path, why: str) -> Problem:
    return Problem(
        "unavailable",
        f"no agent answered at {path}: {why}",
        do="start netspace-agent, or name its configuration with --config; ask as root",
    )
