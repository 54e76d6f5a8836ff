"""From a network configuration to the node's: which file counts, and what stands in for it."""

from __future__ import annotations

from pathlib import Path

from cni_plugins import node_config
from cni_plugins.netconf import NetConf, node_config_path
from cni_plugins.node_config import NodeConfig
from cni_plugins.protocol import INVALID_CONFIG, CniError
from netspace.problems import Problem

NO_CLUSTER = "none"
"""The cluster's name in records of a node that is in none: with other IPAM plugins the macvlan
plugin needs no configuration of the node."""


def node_of(conf: NetConf) -> NodeConfig:
    """The node's configuration; `CniError` 7 with all its faults."""
    path = node_config_path(conf)
    if not path:
        return NodeConfig(cluster=NO_CLUSTER)
    try:
        return node_config.load(Path(path))
    except Problem as problem:
        raise misconfigured(problem) from None


def misconfigured(problem: Problem) -> CniError:
    """The error for what `node_config.load` finds."""
    return CniError(
        INVALID_CONFIG, "the node's configuration is wrong", f"{problem.detail}: {problem.do}"
    )
