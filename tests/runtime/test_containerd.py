"""Pods of a real containerd, driven over CRI as a kubelet drives it."""

from __future__ import annotations

from tests.runtime.world import World, pings, shown, talks


def test_a_pod_has_its_interface_up_with_the_addresses_of_its_pool(running: World) -> None:
    sandbox = running.one.run_pod("web-0", netspace="tenant")
    held = running.holder_of("web-0")
    assert (held.pool, held.node, held.container) == ("tenant", "node-1", sandbox)
    with running.one.netns(sandbox) as pod:
        assert shown(pod) == (True, [held.ipv4, held.ipv6])
    assert sorted(running.one.cri.addresses(sandbox)) == sorted([str(held.ipv4), str(held.ipv6)])


def test_a_pod_without_annotations_gets_the_default_pool(running: World) -> None:
    running.one.run_pod("web-0")
    assert running.holder_of("web-0").pool == "default"


def test_pods_of_two_nodes_talk_in_both_families(running: World) -> None:
    near, far = running.one.run_pod("web-0"), running.two.run_pod("web-1")
    held = running.holder_of("web-1")
    with running.one.netns(near) as client, running.two.netns(far) as server:
        for address in (held.ipv4, held.ipv6):
            assert address is not None
            assert pings(client, address)
            assert talks(client, server, address)


def test_stopping_takes_the_pods_network_away_and_may_be_repeated(running: World) -> None:
    sandbox = running.one.run_pod("web-0")
    running.one.cri.stop(sandbox)
    running.nothing_is_left()
    # Each of these is another DEL, with no namespace and no earlier result.
    running.one.cri.stop(sandbox)
    running.one.cri.remove(sandbox)
    running.nothing_is_left()


def test_a_pod_that_asks_for_what_it_may_not_have_does_not_start(running: World) -> None:
    try:
        running.one.run_pod("web-0", netspace="nosuch")
    except Exception as error:
        assert "nosuch" in str(error)
    else:
        raise AssertionError("it started")
    running.nothing_is_left()
