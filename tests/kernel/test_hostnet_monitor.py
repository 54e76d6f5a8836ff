"""News of a namespace's links, as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_interface, ip_network

from hostnet import (
    LOST,
    Departure,
    Macvlan,
    Monitor,
    Net,
    Netns,
    News,
    Route,
    add_address,
    add_macvlan,
    add_route,
    delete_link,
    get_link,
    list_forwarded,
    run_in,
    set_mtu,
    set_up,
)
from tests.wires import between, namespaces, wire


def news_of(netns: Netns, change: Callable[[], object], enough: Callable[[News], bool]) -> bool:
    """Whether such news comes from the change."""

    async def listen() -> bool:
        with Monitor() as monitor:
            await asyncio.to_thread(change)
            async with asyncio.timeout(5):
                async for news in monitor:
                    if any(map(enough, news)):
                        return True
        return False

    return run_in(netns, lambda _: asyncio.run(listen()))


def test_news_names_the_link_that_changed() -> None:
    with namespaces(2) as (host, other):
        wire(host, "up0", other, "far0")
        link = run_in(host, lambda net: get_link(net, "up0"))

        def change(net: Net) -> None:
            set_mtu(net, link, 1400)

        assert news_of(
            host,
            lambda: run_in(host, change),
            lambda news: news == News("link", link.index, "up0"),
        )


def test_news_of_addresses_and_routes_has_the_links_index() -> None:
    with namespaces(2) as (host, other):
        wire(host, "up0", other, "far0")
        link = run_in(host, lambda net: get_link(net, "up0"))
        address = ip_interface("10.9.0.1/24")
        route = Route(ip_network("10.8.0.0/24"))
        assert news_of(
            host,
            lambda: run_in(host, lambda net: add_address(net, link, address)),
            lambda news: news == News("address", link.index),
        )
        assert news_of(
            host,
            lambda: run_in(host, lambda net: add_route(net, link, route)),
            lambda news: news == News("route", link.index),
        )


def test_a_macvlan_that_goes_inside_its_pod_is_news_of_the_link_below() -> None:
    with namespaces(3) as (host, other, pod):
        wire(host, "up0", other, "far0")

        def make(home: Net, there: Net) -> str:
            link = add_macvlan(home, there, pod, Macvlan("eth0", "up0"))
            set_up(there, link)
            return link.mac

        mac = between(host, pod, make)
        link = run_in(host, lambda net: get_link(net, "up0"))
        assert mac in run_in(host, list_forwarded)[link.index]
        assert news_of(
            host,
            lambda: run_in(pod, lambda net: delete_link(net, "eth0")),
            lambda news: news == News("link", link.index, "up0"),
        )
        assert mac not in run_in(host, list_forwarded).get(link.index, frozenset())


def test_a_links_end_is_told_and_another_links_is_not() -> None:
    with namespaces(2) as (host, other):
        wire(host, "up0", other, "far0")
        wire(host, "up1", other, "far1")

        def job(net: Net) -> tuple[bool, bool, bool]:
            watched = Departure(get_link(net, "up0").index)
            try:
                set_up(net, get_link(net, "up0"))
                before = watched.seen()
                delete_link(net, "up1")
                beside = watched.seen()
                delete_link(net, "up0")
                return before, beside, watched.seen()
            finally:
                watched.close()

        assert run_in(host, job) == (False, False, True)


def test_more_news_than_can_be_kept_says_that_anything_may_have_changed() -> None:
    with namespaces(2) as (host, other):
        wire(host, "up0", other, "far0")
        link = run_in(host, lambda net: get_link(net, "up0"))

        def flood(net: Net) -> None:
            for number in range(400):
                set_mtu(net, link, 1400 + number % 2)

        async def listen() -> bool:
            with Monitor(buffer=4096) as monitor:
                await asyncio.to_thread(lambda: run_in(host, flood))
                async with asyncio.timeout(5):
                    lost = await anext(monitor) == [LOST]
                    # And what comes after it is told again.
                    await asyncio.to_thread(
                        lambda: run_in(host, lambda net: set_mtu(net, link, 1300))
                    )
                    async for news in monitor:
                        if News("link", link.index, "up0") in news:
                            return lost
            return False

        assert run_in(host, lambda _: asyncio.run(listen()))
