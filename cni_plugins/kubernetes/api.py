"""The client of Kubernetes' API on a node; `netspace.kube_api` has what it asks."""

from __future__ import annotations

from collections.abc import Mapping

from cni_plugins.kubernetes.credentials import access
from cni_plugins.node_config import KubernetesSection
from netspace import kube_api
from netspace.kube_api import ApiError as ApiError


class KubeApi(kube_api.KubeApi):
    """Asks the API that the section names; `environ` is the process's. Close it after use."""

    def __init__(self, section: KubernetesSection, environ: Mapping[str, str]) -> None:
        super().__init__(lambda: access(section, environ), section.timeout)
