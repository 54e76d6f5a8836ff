"""Kubernetes as a witness: what the server is told of the pods of fenced nodes, again and again.

The proof is the server's to judge: it frees what was gone in two looks a grace period apart, and
drops all of it as soon as the node itself reports.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from ipam_server.client import Client
from kube_controller import fencing
from kube_controller.informer import fresh
from kube_controller.kinds import NODES, PODS, Node
from kube_controller.metrics import Metrics
from netspace.kube_api import KubeApi
from netspace.kubernetes import Fencing
from netspace.messages import AddressEntry
from netspace.problems import Problem

log = logging.getLogger(__name__)

PAGE: Final = 1000


class Witness:
    """`nodes`: what the informer has, good enough to see when a real look is due. `look` raises
    `Problem` and `ApiError`."""

    def __init__(
        self,
        client: Client,
        cluster: str,
        api: KubeApi,
        nodes: Callable[[], Mapping[str, Node]],
        metrics: Metrics,
    ) -> None:
        self._client, self._cluster, self._api = client, cluster, api
        self._nodes, self._metrics = nodes, metrics

    async def look(self) -> None:
        """One observation of every fenced node."""
        listed = await self._client.nodes(self._cluster)
        known = {node.name: node.used for node in listed}
        present = self._nodes()
        suspects = fencing.fenced(present, known)
        for node in listed:
            there = present.get(node.name)
            if node.fenced is not None and there is not None and not there.out_of_service:
                await self._client.unfence(self._cluster, node.name)
                log.info("node %s is fenced no more", node.name, extra={"node": node.name})
        self._metrics.fenced_nodes.set(len(suspects))
        if not suspects:
            return
        # First what the server has, then what Kubernetes has: whoever holds an address in the one
        # and is not in the other has come to an end.
        held: dict[str, tuple[int, list[AddressEntry]]] = {}
        for name in suspects:
            seen = (await self._client.node_attachments(self._cluster, name)).revision
            held[name] = seen, await self._addresses(name)
        nodes, _ = await fresh(self._api, NODES)
        pods, _ = await fresh(self._api, PODS)
        alive = fencing.living(pods.values())
        for name, why in fencing.fenced(nodes, known).items():
            if name not in held:
                continue
            seen, entries = held[name]
            gone = fencing.gone(entries, alive)
            try:
                told = await self._client.fence(
                    self._cluster, name, Fencing(seen=seen, why=why, gone=gone)
                )
            except Problem as problem:
                log.warning("node %s: %s", name, problem, extra={"node": name})
                continue
            log.info(
                "node %s is fenced", name,
                extra={"node": name, "why": why, "held": told.held, "gone": told.gone},
            )  # fmt: skip

    async def _addresses(self, node: str) -> list[AddressEntry]:
        found: list[AddressEntry] = []
        after: str | None = None
        while True:
            page = await self._client.addresses(
                self._cluster, node=node, state="used", limit=PAGE, after=after
            )
            found += page.items
            after = page.next
            if after is None:
                return found
