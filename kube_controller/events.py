"""Events on namespaces whose annotations are wrong, and on pods whose address another one has: what
is said, and how often.

core/v1 Event (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/). The
same fault has the same name: said again it is counted, not added.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from kube_controller.kinds import Metadata, Namespace, Pod
from netspace.kube_api import ApiError, KubeApi
from netspace.problems import Problem

COMPONENT: Final = "netspace-controller"
_LONGEST: Final = 1024
AGAIN: Final = 1800.0
"""Seconds after which a fault that is still there is said again: the API forgets events after an
hour."""


class _Counted(msgspec.Struct):
    count: int | None = None


def folder(namespace: str) -> str:
    """Where a namespace's events are."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/events"


def event(namespace: Namespace, problem: Problem, now: datetime) -> dict[str, Any]:
    """A warning about the namespace, in the namespace, where who works in it sees it."""
    about = namespace.metadata
    return _warning("Namespace", about, about.name, "AnnotationInvalid", str(problem), now)


def holder(pod: Pod, message: str, now: datetime) -> dict[str, Any]:
    """Who has the address that the pod asks for."""
    about = pod.metadata
    return _warning("Pod", about, about.namespace, "AddressHolder", message, now)


def _warning(
    kind: str, about: Metadata, within: str, reason: str, said: str, now: datetime
) -> dict[str, Any]:
    message = said[:_LONGEST]
    digest = hashlib.sha256(f"{about.uid} {message}".encode()).hexdigest()[:16]
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        # Not every name has room for more.
        "metadata": {"name": f"{about.name[:200].rstrip('.-')}.{digest}", "namespace": within},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": kind,
            "name": about.name,
            "namespace": within,
            "uid": about.uid,
        },
        "type": "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }


async def post(api: KubeApi, said: dict[str, Any]) -> None:
    """Says it, or counts one that stands there already. Raises `ApiError`."""
    where = folder(said["metadata"]["namespace"])
    try:
        await api.create(where, said, _Counted)
    except ApiError as error:
        if error.status != 409:
            raise
        path = f"{where}/{quote(said['metadata']['name'], safe='')}"
        before = await api.get(path, _Counted)
        told = {"count": (before.count or 1) + 1, "lastTimestamp": said["lastTimestamp"]}
        await api.patch(path, told)
