"""Who may do what: every row of the API and the callers that it lets in.

What is not in the table is for admins. Nodes and controllers are let in for their own cluster only;
a process on the server's machine, on a Unix socket or an address of loopback without TLS, has every
role. docs/security.md shows the table to people.
"""

from __future__ import annotations

from typing import Final

from netspace.callers import ADMINS, Role, Who

_C: Final = "/v1/clusters/{cluster}"


def _who(*roles: Role) -> frozenset[Role]:
    return frozenset({"admin", *roles})


ANYBODY: Final = Who(None)
MEMBERS: Final = Who(_who("controller", "node", "server", "monitor"))
MONITORS: Final = Who(_who("monitor", "server"))
CLUSTER: Final = Who(_who("controller", "node"))
CONTROLLERS: Final = Who(_who("controller"))
SERVERS: Final = Who(_who("server"))

IN_BODY: Final = Who(_who("controller", "node"), node="body")
IN_ITEMS: Final = Who(_who("controller", "node"), node="items")
IN_PATH: Final = Who(_who("controller", "node"), node="path")
IN_QUERY: Final = Who(_who("controller", "node"), node="query")
IN_ANSWER: Final = Who(_who("controller", "node"), node="answer")

TABLE: Final[dict[tuple[str, str], Who]] = {
    # A node asks for its own pods, and of the rest of the cluster sees what it needs for them.
    ("POST", f"{_C}/allocations"): IN_BODY,
    ("POST", f"{_C}/releases"): IN_BODY,
    ("POST", f"{_C}/allocation-batches"): IN_ITEMS,
    ("POST", f"{_C}/release-batches"): IN_ITEMS,
    ("GET", f"{_C}/attachments/{{container}}/{{ifname}}"): IN_ANSWER,
    ("GET", f"{_C}/networks"): CLUSTER,
    ("GET", f"{_C}/networks/{{network}}"): CLUSTER,
    ("GET", f"{_C}/pools"): CLUSTER,
    ("GET", f"{_C}/pools/{{pool}}"): CLUSTER,
    ("GET", f"{_C}/addresses"): IN_QUERY,
    ("GET", f"{_C}/nodes/{{node}}"): IN_PATH,
    ("PUT", f"{_C}/nodes/{{node}}"): IN_PATH,
    ("PUT", f"{_C}/nodes/{{node}}/vmacs/{{network}}"): IN_PATH,
    ("DELETE", f"{_C}/nodes/{{node}}/vmacs/{{network}}"): IN_PATH,
    ("GET", f"{_C}/nodes/{{node}}/attachments"): IN_PATH,
    ("PUT", f"{_C}/nodes/{{node}}/attachments"): IN_PATH,
    ("GET", _C): CLUSTER,
    # A controller speaks for its cluster's objects. Networks lie in fabrics, which clusters share:
    # a server's configuration can leave them to admins.
    ("POST", f"{_C}/networks"): CONTROLLERS,
    ("PATCH", f"{_C}/networks/{{network}}"): CONTROLLERS,
    ("DELETE", f"{_C}/networks/{{network}}"): CONTROLLERS,
    ("POST", f"{_C}/pools"): CONTROLLERS,
    ("PATCH", f"{_C}/pools/{{pool}}"): CONTROLLERS,
    ("DELETE", f"{_C}/pools/{{pool}}"): CONTROLLERS,
    ("POST", f"{_C}/pools/{{pool}}/grow"): CONTROLLERS,
    ("POST", f"{_C}/pools/{{pool}}/shrink"): CONTROLLERS,
    ("GET", f"{_C}/addresses/{{address}}"): CONTROLLERS,
    ("GET", f"{_C}/addresses/{{address}}/history"): CONTROLLERS,
    ("POST", f"{_C}/reservations"): CONTROLLERS,
    ("DELETE", f"{_C}/reservations/{{address}}"): CONTROLLERS,
    ("POST", f"{_C}/operator-releases"): CONTROLLERS,
    ("GET", f"{_C}/nodes"): CONTROLLERS,
    ("GET", f"{_C}/nodes/{{node}}/fencing"): CONTROLLERS,
    ("PUT", f"{_C}/nodes/{{node}}/fencing"): CONTROLLERS,
    ("DELETE", f"{_C}/nodes/{{node}}/fencing"): CONTROLLERS,
    ("GET", f"{_C}/namespaces"): CONTROLLERS,
    ("PUT", f"{_C}/namespaces/{{namespace}}"): CONTROLLERS,
    ("DELETE", f"{_C}/namespaces/{{namespace}}"): CONTROLLERS,
    ("GET", f"{_C}/audit"): CONTROLLERS,
    # Servers look at one another; everything else they pass on in somebody's name.
    ("GET", "/v1/server"): SERVERS,
    ("GET", "/v1/status"): SERVERS,
    # Whoever watches sees figures, and the names of clusters, networks and pools.
    ("GET", "/metrics"): MONITORS,
    ("GET", "/readyz"): MEMBERS,
    ("GET", "/healthz"): ANYBODY,
    ("GET", "/openapi.json"): ANYBODY,
}


def who_may(method: str, path: str) -> Who:
    """Whom the row of this method and path template lets in."""
    return TABLE.get((method, path), ADMINS)
