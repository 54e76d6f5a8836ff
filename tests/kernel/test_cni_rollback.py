"""Nothing is left of an ADD that fails after any single change of the kernel or step of its own."""

from __future__ import annotations

import pytest

from cni_plugins import add
from cni_plugins.results import Result
from hostnet import Netns, Observer
from tests.node_fixtures import CLUSTER
from tests.nodes import IpamServer, Node, links, pod_args, used
from tests.wires import InjectedError, fail_after, namespaces


def added(node: Node, pod: Netns, observer: Observer | None, step: Observer) -> Result:
    call = node.invocation("ADD", "c1", pod, node.conflist(), args=pod_args("web-0"))
    return node.inside(lambda host: add.add(host, call), observer=observer, step=step)


def nothing(_: str) -> None:
    pass


def test_a_failure_after_every_single_change_of_the_kernel_leaves_nothing(
    node: Node, server: IpamServer
) -> None:
    changes: list[str] = []
    with namespaces(1) as (pod,):
        added(node, pod, changes.append, nothing)
    assert {"link add", "addr add", "route add", "sysctl write", "announce"} <= set(changes)
    node.call("DEL", "c1", None, node.conflist())
    for number in range(len(changes)):
        with namespaces(1) as (pod,):
            with pytest.raises(InjectedError):
                added(node, pod, fail_after(number), nothing)
            left = (links(pod), node.files(), used(server, CLUSTER))
            assert left == ([], [], 0), f"after change {number}, {changes[number]}"
            assert links(node.netns) == ["up0"]


def test_a_failure_after_every_single_step_leaves_nothing(node: Node, server: IpamServer) -> None:
    steps: list[str] = []
    with namespaces(1) as (pod,):
        added(node, pod, None, steps.append)
    node.call("DEL", "c1", None, node.conflist())
    for number, step in enumerate(steps):
        with namespaces(1) as (pod,):
            with pytest.raises(InjectedError):
                added(node, pod, None, fail_after(number))
            left = (links(pod), node.files(), used(server, CLUSTER))
            assert left == ([], [], 0), f"after the step {step}"
