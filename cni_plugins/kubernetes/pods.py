"""A pod's annotations, asked of Kubernetes where the runtime passes none.

The answer must be about the very pod that the sandbox is for: another one may have its name by now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from cni_plugins.kubernetes.api import ApiError, KubeApi
from cni_plugins.protocol import TRY_AGAIN, CniError
from netspace.messages import Pod

MIRROR: Final = "kubernetes.io/config.mirror"
"""On the object that shows a static pod: the UID that the kubelet knows it by."""


class _Metadata(msgspec.Struct):
    uid: str = ""
    annotations: dict[str, str] | None = None


class _Pod(msgspec.Struct):
    metadata: _Metadata


class ApiPods:
    """Annotations by the API."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    async def annotations(self, pod: Pod) -> Mapping[str, str]:
        """The pod's annotations; `CniError` 11 where they cannot be had now."""
        try:
            found = await self._api.get(pod_path(pod), _Pod)
        except ApiError as error:
            if error.status == 404:
                raise _again(pod, "the API does not know it (yet)") from None
            raise _again(pod, error.why) from None
        mine = found.metadata.annotations or {}
        if (why := other_pod(pod.uid, found.metadata.uid, mine)) is not None:
            raise _again(pod, why)
        return mine


def pod_path(pod: Pod) -> str:
    """Where the API has the pod."""
    return f"/api/v1/namespaces/{quote(pod.namespace, '')}/pods/{quote(pod.name, '')}"


def other_pod(wanted: str, uid: str, annotations: Mapping[str, str]) -> str | None:
    """Why the pod of this UID is not the wanted one; None where it is, or where the runtime has
    named none."""
    if wanted in ("", uid, annotations.get(MIRROR)):
        return None
    return f"the pod of this name is another one now: UID {uid}, not {wanted}"


def _again(pod: Pod, why: str) -> CniError:
    return CniError(
        TRY_AGAIN, f"the annotations of pod {pod.namespace}/{pod.name} are not to be had", why
    )
