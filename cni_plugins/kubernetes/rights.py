"""Whether the API can be reached and lets the node do what it has to: asked of the API itself.

Source: authorization.k8s.io/v1, SelfSubjectAccessReview, which every authenticated caller may make.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from cni_plugins.kubernetes.api import ApiError, KubeApi
from cni_plugins.node_config import KubernetesSection

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Right(NamedTuple):
    """Something the node does with a kind of object, in any namespace, and what for."""

    verb: str
    resource: str
    why: str


class Answer(NamedTuple):
    """`lacks` empty: all is well."""

    found: str
    lacks: tuple[str, ...] = ()
    reached: bool = True


class _Reviewed(msgspec.Struct):
    allowed: bool = False
    reason: str = ""


class _Review(msgspec.Struct):
    status: _Reviewed


def needed(section: KubernetesSection) -> Iterator[Right]:
    """What the node must be allowed."""
    yield Right("get", "pods", "without it pods get no address where the runtime passes nothing")
    if section.events:
        yield Right("create", "events", "without it pods show no events")
        yield Right("patch", "events", "without it every repeat is an event of its own")


def review(right: Right) -> Mapping[str, object]:
    """The question whether we may."""
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": right.verb, "resource": right.resource}},
    }


async def ask(api: KubeApi, section: KubernetesSection) -> Answer:
    """What the API says."""
    lacks = []
    try:
        for right in needed(section):
            said = (await api.create(_REVIEWS, review(right), _Review)).status
            if not said.allowed:
                lacks.append(f"{right.verb} {right.resource}: {right.why}")
        return Answer(f"{api.where()} answers", tuple(lacks))
    except ApiError as error:
        return Answer(error.why, reached=False)
