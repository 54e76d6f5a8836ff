"""Which credentials the node's configuration names; `netspace.kube_access` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cni_plugins.node_config import KubernetesSection
from netspace.kube_access import (
    Access,
    Read,
    from_kubeconfig,
    from_service_account,
    read_file,
)


def access(
    section: KubernetesSection, environ: Mapping[str, str], read: Read = read_file
) -> Access:
    """What the node's configuration says. Raises `Problem` invalid."""
    if section.kubeconfig is not None:
        return from_kubeconfig(Path(section.kubeconfig), read)
    return from_service_account(Path(section.service_account), section.server, environ, read)
