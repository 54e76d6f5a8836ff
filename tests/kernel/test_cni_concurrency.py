"""Many ADDs at once in one process, as the node's agent will run them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cni_plugins import add
from cni_plugins.attachment import Host
from cni_plugins.delete import delete
from cni_plugins.failures import to_cni_error
from cni_plugins.results import Result
from tests.nodes import Node, declare, default_pool, dual_stack, ipam_server, links, pod_args, used
from tests.wires import namespaces, wire

COUNT = 64


def test_64_adds_at_once_on_a_pool_of_64_get_one_each_and_the_65th_is_told(tmp_path: Path) -> None:
    with ipam_server(tmp_path / "server") as server, namespaces(2) as (host, other):
        declare(
            server,
            "cluster-1",
            dual_stack(1),
            default_pool(COUNT),
        )
        wire(host, "up0", other, "far0")
        node = Node(host, tmp_path / "node", "cluster-1", server.url)
        with namespaces(COUNT + 1) as sandboxes:
            calls = [
                node.invocation(
                    "ADD", f"c{number}", pod, node.conflist(), args=pod_args(f"web-{number}")
                )
                for number, pod in enumerate(sandboxes)
            ]

            async def all_at_once(host: Host) -> list[Result]:
                return await asyncio.gather(*(add.add(host, call) for call in calls[:COUNT]))

            async def one_more(host: Host) -> Exception:
                try:
                    await add.add(host, calls[COUNT])
                except Exception as error:
                    return error
                raise AssertionError("the pool had one address more than it has")

            async def all_away(host: Host) -> None:
                await asyncio.gather(*(delete(host, call, "netspace") for call in calls))

            results = node.inside(all_at_once)
            for family in range(2):
                assert len({result.ips[family].address for result in results}) == COUNT
            assert len({result.interfaces[0].mac for result in results}) == COUNT
            assert [links(pod) for pod in sandboxes] == [["eth0"]] * COUNT + [[]]
            assert to_cni_error(node.inside(one_more)).code == 100
            node.inside(all_away)
            assert not any(links(pod) for pod in sandboxes)
            assert (node.files(), used(server, "cluster-1")) == ([], 0)
