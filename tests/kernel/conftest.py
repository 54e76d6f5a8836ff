"""The server and the node that tests of plugins here have."""

from tests.node_fixtures import node, server

__all__ = ["node", "server"]
