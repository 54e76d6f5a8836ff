"""Events on namespaces whose annotations are wrong: what is said, and how often.

core/v1 Event (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/). The
same fault has the same name: said again it is counted, not added.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from kube_controller.kinds import Namespace
from netspace.kube_api import ApiError, KubeApi
from netspace.problems import Problem

COMPONENT: Final = "netspace-controller"
REASON: Final = "AnnotationInvalid"
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
    name = namespace.metadata.name
    message = str(problem)[:1024]
    digest = hashlib.sha256(f"{namespace.metadata.uid} {message}".encode()).hexdigest()[:16]
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{digest}", "namespace": name},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Namespace",
            "name": name,
            "namespace": name,
            "uid": namespace.metadata.uid,
        },
        "type": "Warning",
        "reason": REASON,
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
