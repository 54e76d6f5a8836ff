"""How many replicas an application pool follows. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from kube_controller.kinds import Workload
from netspace.selection import PREFIX

APPLICATION: Final = f"{PREFIX}application"
MOST: Final = 65_536
"""As many as the server takes."""


def replicas_of(pool: str, namespaces: Collection[str], workloads: Iterable[Workload]) -> int:
    """The replicas that StatefulSets and Deployments want whose pods name the pool. Those of
    namespaces that the pool does not list count nothing: they could not use it."""
    count = 0
    for workload in workloads:
        chosen = (workload.spec.template.metadata.annotations or {}).get(APPLICATION)
        if chosen == pool and ("*" in namespaces or workload.metadata.namespace in namespaces):
            # Kubernetes' own default where a workload says nothing.
            count += 1 if workload.spec.replicas is None else max(0, workload.spec.replicas)
    return min(count, MOST)
