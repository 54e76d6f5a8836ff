"""A pod's interface that has the name of a link of the host: the lab's kernel is one that refuses
it, so it is made under another name first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from hostnet import (
    Link,
    Macvlan,
    NameTaken,
    Net,
    Netns,
    add_macvlan,
    get_link,
    list_links,
    run_in,
    temporary_name,
)
from hostnet.netlink import Observer
from tests.wires import InjectedError, between, fail_after, namespaces, wire

WANTED = Macvlan("eth0", "eth0")


@pytest.fixture
def place() -> Iterator[tuple[Netns, Netns]]:
    """A host with the link `eth0`, wired to a switch, and an empty pod."""
    with namespaces(3) as (host, pod, switch):
        wire(host, "eth0", switch, "port0")
        yield host, pod


def make(place: tuple[Netns, Netns], observer: Observer | None = None) -> Link:
    host, pod = place
    job = lambda home, there: add_macvlan(home, there, pod, WANTED)  # noqa: E731
    return between(host, pod, job, observer)


def names(netns: Netns) -> list[str]:
    return [link.name for link in run_in(netns, list_links)]


def test_it_gets_that_name(place: tuple[Netns, Netns]) -> None:
    made = make(place)
    assert made == run_in(place[1], lambda net: get_link(net, "eth0"))
    assert names(place[1]) == ["lo", "eth0"]


def test_a_name_taken_in_the_last_moment_is_refused_and_nothing_is_left(
    place: tuple[Netns, Netns],
) -> None:
    host, pod = place

    def intrude(step: str) -> None:
        if step == "link add":
            wire(pod, "eth0", host, "intruder")

    with pytest.raises(NameTaken, match="the pod has a link eth0 already"):
        make(place, intrude)
    assert run_in(pod, lambda net: get_link(net, "eth0")).kind == "veth"
    assert names(pod) == ["lo", "eth0"]


def test_a_failure_after_any_step_leaves_nothing_in_the_pod(place: tuple[Netns, Netns]) -> None:
    for passing in count():
        try:
            make(place, fail_after(passing))
        except InjectedError:
            assert names(place[1]) == ["lo"]
        else:
            break
    assert passing == 2
    assert names(place[1]) == ["lo", "eth0"]


def test_what_a_killed_call_left_is_replaced(place: tuple[Netns, Netns]) -> None:
    host, pod = place
    left = temporary_name("eth0")

    def killed(home: Net, there: Net) -> Link:
        return add_macvlan(home, there, pod, Macvlan(left, "eth0"))

    between(host, pod, killed)
    assert names(pod) == ["lo", left]
    make(place)
    assert names(pod) == ["lo", "eth0"]
