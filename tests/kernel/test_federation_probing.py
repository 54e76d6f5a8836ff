"""Probes over real UDP, between two namespaces whose path has an MTU and can be cut."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_interface

import pytest

from federation.desired import Path
from federation.node.prober import Prober, Target
from federation.node.probing import Mark, probe
from federation.node.responder import Responder
from hostnet import Net, Netns, add_address, anonymous_netns, get_link, run_in, set_mtu, set_up
from hostnet.links import set_down

PATH = Path("f", "b", "gateway")
PORT = 4791


@dataclass
class World:
    """`here` and `there` are joined by the veths a and b."""

    here: Netns
    there: Netns
    heard: list[bool] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def set_mtu(self, mtu: int) -> None:
        self.set_far_mtu(mtu)
        run_in(self.here, lambda net: set_mtu(net, get_link(net, "a"), mtu))

    def set_far_mtu(self, mtu: int) -> None:
        """Of the far end alone, so that the near one is not told by its own link."""
        run_in(self.there, lambda net: set_mtu(net, get_link(net, "b"), mtu))

    def cut(self) -> None:
        def job(net: Net) -> None:
            link = get_link(net, "b")
            net.change("set down", "b", "link", "set", index=link.index, state="down")

        run_in(self.there, job)

    def mend(self) -> None:
        run_in(self.there, lambda net: set_up(net, get_link(net, "b")))


@pytest.fixture
def world() -> Iterator[World]:
    with anonymous_netns() as here, anonymous_netns() as there:

        def wire(net: Net) -> None:
            net.change("make", "a", "link", "add", ifname="a", kind="veth", peer={"ifname": "b"})
            index = get_link(net, "b").index
            net.change("move", "b", "link", "set", index=index, net_ns_fd=there.fd)

        run_in(here, wire)
        for netns, name, number in ((here, "a", 1), (there, "b", 2)):

            def addresses(net: Net, name: str = name, number: int = number) -> None:
                link = get_link(net, name)
                set_up(net, link)
                add_address(net, link, ip_interface(f"10.0.0.{number}/24"))
                add_address(net, link, ip_interface(f"fd00::{number}/64"))

            run_in(netns, addresses)
        yield World(here, there)


@contextmanager
def inside(netns: Netns) -> Iterator[None]:
    """Sockets that are made meanwhile are of this namespace."""
    with Netns(os.open("/proc/thread-self/ns/net", os.O_RDONLY), "(own)") as own:
        netns.enter()
        try:
            yield
        finally:
            own.enter()


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)


def target(family: int, interval: float = 0.05) -> Target:
    remote, local = ("10.0.0.2", "10.0.0.1") if family == 4 else ("fd00::2", "fd00::1")
    return Target(
        remote=remote, port=PORT, interval=interval, most=1500, local=local, mark=0x300000
    )


Work = Callable[[Prober, Responder], Coroutine[None, None, None]]


def probing(world: World, work: Work, family: int = 4) -> None:
    """Runs the coroutine function with a prober here and a responder there."""

    async def whole() -> None:
        loop = asyncio.get_running_loop()
        responder = Responder()
        with inside(world.there):
            responder.serve([PORT])
        prober = Prober(
            lambda path, answered: world.heard.append(answered),
            lambda path, size: world.sizes.append(size),
            window=20,
        )
        with inside(world.here):
            prober.want({PATH: target(family)})
            # The tunnel's socket is made with the first probe.
            prober._probe(prober._lines[PATH], loop.time())
        running = asyncio.create_task(prober.run())
        try:
            await work(prober, responder)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            prober.close()
            responder.close()

    asyncio.run(whole())


@pytest.mark.parametrize("family", [4, 6])
def test_a_path_is_probed_and_its_mtu_measured(world: World, family: int) -> None:
    world.set_mtu(1400)

    async def work(prober: Prober, responder: Responder) -> None:
        await until(lambda: world.heard.count(True) >= 5 and bool(world.sizes))
        assert prober.mtu(PATH) == 1400 == world.sizes[0]
        window = prober.windows()[PATH]
        assert window.rtt is not None and window.rtt < 1
        assert responder.answered >= 5

    probing(world, work, family)


def test_a_path_that_is_cut_loses_probes_in_a_row_and_comes_back(world: World) -> None:
    async def work(prober: Prober, responder: Responder) -> None:
        await until(lambda: world.heard.count(True) >= 5)
        window = prober.windows()[PATH]
        world.cut()
        await until(lambda: window.row >= 3)
        # Detection is so many intervals, and at most one more for the last answer.
        assert window.interval == 0.05 and window.timeout <= 0.05
        world.mend()
        await until(lambda: window.row == 0)

    probing(world, work)


def test_an_mtu_that_shrinks_is_found_without_being_told(world: World) -> None:
    async def work(prober: Prober, responder: Responder) -> None:
        await until(lambda: world.sizes == [1500])
        world.set_mtu(1300)
        await until(lambda: world.sizes[-1] == 1300)

    probing(world, work)


def test_a_path_that_is_cut_while_it_is_measured_is_not_called_small(world: World) -> None:
    world.set_far_mtu(1300)

    async def work(prober: Prober, responder: Responder) -> None:
        line = prober._lines[PATH]
        await until(lambda: line.trying is not None)
        world.cut()
        await until(lambda: line.window.row >= 20)
        world.mend()
        await until(lambda: bool(world.sizes))
        # What arrives may be longer by a VLAN's tag.
        assert world.sizes == [1304]

    probing(world, work)


def test_a_path_by_which_nothing_can_be_sent_is_not_tried_all_the_time(world: World) -> None:
    world.set_far_mtu(1300)

    async def work(prober: Prober, responder: Responder) -> None:
        line = prober._lines[PATH]
        await until(lambda: line.trying is not None)
        run_in(world.here, lambda net: set_down(net, get_link(net, "a")))
        await until(lambda: line.window.row >= 5)
        before = prober._number
        await until(lambda: line.window.row >= 15)
        assert prober._number - before < 100

    probing(world, work)


def test_a_path_through_which_no_size_went_is_measured_again_soon(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.node.prober.AGAIN", 0.2)
    world.set_far_mtu(500)

    async def work(prober: Prober, responder: Responder) -> None:
        await until(lambda: world.sizes == [0])
        world.set_far_mtu(1500)
        await until(lambda: world.sizes[-1] == 1500)

    probing(world, work)


def test_a_path_that_stays_is_not_disturbed_by_others_that_come_and_go(world: World) -> None:
    async def work(prober: Prober, responder: Responder) -> None:
        await until(lambda: world.heard.count(True) >= 3)
        window = prober.windows()[PATH]
        prober.want({PATH: target(4), Path("f", "b", "other"): target(6)})
        prober.want({PATH: target(4, 0.04)})
        assert prober.windows()[PATH] is window
        assert window.interval == 0.04

    probing(world, work)


def test_the_responder_answers_thousands_of_probes_in_a_second_of_the_processors(
    world: World,
) -> None:
    count = 3000

    async def work(prober: Prober, responder: Responder) -> None:
        loop = asyncio.get_running_loop()
        with inside(world.here):
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with asking:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            asking.connect(("10.0.0.2", PORT))
            before, began = responder.answered, time.process_time()
            for number in range(count):
                await loop.sock_sendall(asking, probe(Mark(number, bytes(16))))
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await until(lambda: responder.answered - before >= count)
            took = time.process_time() - began
        assert count / took > 2000, f"{count / took:.0f} in a second of the processor's"

    probing(world, work)


def test_a_port_that_is_taken_is_told_and_the_others_are_served(world: World) -> None:
    async def whole() -> None:
        responder = Responder()
        with inside(world.here), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("", PORT))
            with pytest.raises(Exception, match=f"UDP port {PORT}"):
                responder.serve([PORT, PORT + 1])
            assert responder.ports == (PORT + 1,)
        responder.close()

    asyncio.run(whole())
