"""What a soak runs on: etcd members, servers, and a proxy on every link, the clients' too.

    clients ──▶ server i          `front[i]`
    server  ──▶ server i          `between[i]`, which is what server i tells the others of itself
    server i ──▶ etcd j           `stores[i][j]`
    etcd i  ──▶ etcd j            `peers[j]`, told apart by who connects

All of it is processes of its own: each in a network namespace (`soak.links`), else on loopback
addresses. A server without certificates listens on loopback alone; in its namespace the proxies
before it are what others reach, and those before etcd stand with the server that asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from lab import server
from lab.etcd import Etcd, EtcdError, free_ports
from lab.proxy import LOOPBACK, Proxy
from soak.ground import GRACE
from soak.links import Links

READY = 40.0
"""Seconds until everything must stand at the beginning."""

QUOTA = 40 * 2**20
"""Bytes of etcd's database, so that it can be filled in a moment."""

MODULE = "ipam_server.main"

Inside = Callable[[], AbstractContextManager[None]]


class Member(Etcd):
    """A member that runs, and has its ports, where `inside` leads."""

    inside: Inside = contextlib.nullcontext

    def start(self, wait: bool = True) -> None:
        with self.inside():
            super().start(wait=False)
        if wait:
            self.wait_ready()


class Server(server.Server):
    """A server's process. `advertise` is where the other servers find it, `stores` where it finds
    etcd, `waiting` how many changes it queues. It runs where `inside` leads."""

    def __init__(
        self, folder: Path, name: str, module: str, port: int, inside: Inside, **settings: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(
            folder,
            "",
            listen=[f"http://{LOOPBACK}:{port}"],
            name=name,
            leader_ttl=2,
            clock_interval=1,
            reclaim={"grace": GRACE, "interval": 3},
            **settings,
        )
        self.name = name
        self.module = module
        self.inside = inside

    def start(self) -> Server:
        with self.inside():
            super().start()
        return self

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if it runs."""
        if self.process is not None and self.running:
            self.process.send_signal(number)

    async def finish(self, number: signal.Signals = signal.SIGKILL, seconds: float = 15) -> None:
        """Ends it and waits; killed where it takes longer."""
        self.send(number)
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


class World:
    """Made by `standing`. Indices of servers and members are those of the lists. `links`: the
    namespaces, where there are any."""

    def __init__(self, links: Links | None) -> None:
        self.links = links
        self.members: list[Member] = []
        self.servers: list[Server] = []
        self.front: list[Proxy] = []
        self.between: list[Proxy] = []
        self.stores: list[list[Proxy]] = []
        self.peers: list[Proxy] = []
        self.leader = ""

    @property
    def endpoints(self) -> list[str]:
        """Where clients find the servers."""
        return [proxy.url for proxy in self.front]

    @property
    def store_urls(self) -> list[str]:
        """The members themselves, past every proxy."""
        return [member.url for member in self.members]

    @property
    def proxies(self) -> list[Proxy]:
        return [*self.front, *self.between, *(p for row in self.stores for p in row), *self.peers]

    def leading(self) -> int | None:
        """Which server led when etcd was last looked at."""
        names = [each.name for each in self.servers]
        return names.index(self.leader) if self.leader in names else None

    async def heal(self) -> None:
        """Makes everything stand and every link whole again."""
        if self.links is not None:
            await asyncio.to_thread(self.links.plug)
            if self.links.slow:
                await asyncio.to_thread(self.links.quicken)
        for proxy in self.proxies:
            broken = proxy.losing_answers or proxy.losing_requests
            proxy.losing_answers = proxy.losing_requests = False
            proxy.refused.clear()
            proxy.delay = 0.0
            proxy.flow()
            if broken:
                proxy.cut()
        for member in self.members:
            if member.running:
                member.resume()
            else:
                member.kill()
                member.start(wait=False)
        for each in self.servers:
            if each.running:
                each.send(signal.SIGCONT)
            else:
                each.start()

    def place(self, name: str) -> tuple[str, Inside]:
        """The address of a server or a member, and how to get to where it is."""
        if self.links is None:
            return LOOPBACK, contextlib.nullcontext
        return self.links.address(name), partial(self.links.inside, name)

    def who_connects(self, host: str, port: int) -> str:
        """The name of the member that has a connection from this port of a host."""
        if self.links is not None:
            return self.links.name_of(host)
        inode = _inode(port)
        for member in self.members:
            with contextlib.suppress(OSError, EtcdError):
                for descriptor in Path(f"/proc/{member.pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        if str(descriptor.readlink()) == f"socket:[{inode}]":
                            return member.name
        return "?"


def _inode(port: int) -> str:
    """The inode of the socket that has a connection from a port of the host."""
    wanted = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == wanted:
            return fields[9]
    return ""


def member_name(number: int) -> str:
    return f"etcd-{chr(ord('a') + number)}"


def server_name(number: int) -> str:
    return f"s{number + 1}"


@contextlib.asynccontextmanager
async def standing(
    folder: Path,
    servers: int,
    members: int,
    waiting: int,
    module: str = MODULE,
    links: Links | None = None,
) -> AsyncIterator[World]:
    """Starts everything; `waiting` is how many changes a server queues. Nothing is left after it.

    Raises `EtcdError`."""
    async with contextlib.AsyncExitStack() as stack:
        world = World(links)
        ports = _Ports()
        names = [member_name(number) for number in range(members)]
        listening = []
        for name in names:
            host, inside = world.place(name)
            client_port, peer_port = ports.two(host, inside)
            listening.append((client_port, peer_port))
            proxy = Proxy(host, peer_port, world.who_connects, listen=host, inside=inside)
            world.peers.append(await stack.enter_async_context(proxy))
        cluster = ",".join(
            f"{name}={proxy.url}" for name, proxy in zip(names, world.peers, strict=True)
        )
        for number, name in enumerate(names):
            host, inside = world.place(name)
            with inside():
                member = Member(
                    folder / name,
                    name,
                    host,
                    quota=QUOTA,
                    # The last one counts: the others are to come by the proxy.
                    arguments=(f"--initial-advertise-peer-urls={world.peers[number].url}",),
                    client_port=listening[number][0],
                    peer_port=listening[number][1],
                    cluster=cluster,
                )
            member.inside = inside
            world.members.append(member)
            stack.callback(member.kill)
            member.start(wait=False)
        for number in range(servers):
            name = server_name(number)
            host, inside = world.place(name)
            port, _ = ports.two(LOOPBACK, inside)
            front, between = (Proxy(LOOPBACK, port, listen=host, inside=inside) for _ in range(2))
            row = [
                Proxy(member.host, member.client_port, inside=inside) for member in world.members
            ]
            for proxy in (front, between, *row):
                await stack.enter_async_context(proxy)
            world.front.append(front)
            world.between.append(between)
            world.stores.append(row)
            # Each begins with a member of its own.
            urls = [row[(number + step) % members].url for step in range(members)]
            made = Server(
                folder / f"server-{number + 1}",
                name,
                module,
                port,
                inside,
                advertise=between.url,
                etcd={"endpoints": urls, "timeout": 1.5},
                limits={"waiting": waiting, "commit": 2, "timeout": 8},
            )
            world.servers.append(made)
            stack.push_async_callback(made.finish)
            made.start()
        for member in world.members:
            await asyncio.to_thread(member.wait_ready, READY)
        yield world


class _Ports:
    """Free ports, none twice, though nobody listens on them yet."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def two(self, host: str, inside: Inside) -> tuple[int, int]:
        while True:
            with inside():
                one, two = free_ports(host, 2)
            if not {one, two} & self._given:
                self._given |= {one, two}
                return one, two
