"""Who asks, and what a row of an API says of who may: values and pure decisions.

A caller is what its connection proves: the subject of its certificate, or that it is on this
machine, where files' modes decide who comes so far. A server that passes a request on says for whom
in the header `Netspace-Caller`, which is believed of nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote, unquote

from netspace import names
from netspace.problems import Problem

Role = Literal["node", "controller", "admin", "server", "monitor", "member", "local", "nobody"]

HEADER: Final = "Netspace-Caller"

ORGANIZATIONS: Final[Mapping[Role, str]] = {
    "node": "netspace:nodes",
    "controller": "netspace:controllers",
    "admin": "netspace:admins",
    "server": "netspace:servers",
    "monitor": "netspace:monitors",
    "member": "netspace:federation",
}
"""The O of a certificate's subject, by the role it gives."""

_ROLES: Final = {organization: role for role, organization in ORGANIZATIONS.items()}
_OF_CLUSTERS: Final = frozenset({"node", "controller"})
_PERSON: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@:+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Caller:
    """`cluster` for nodes, controllers and a federation's members; `name` of the node, admin,
    server or monitor, of a member's federation, or which user of this machine it is. Nobody has a
    certificate without a role, and `why` says what is wrong."""

    role: Role
    cluster: str = ""
    name: str = ""
    why: str = ""

    def __str__(self) -> str:
        match self.role:
            case "node":
                return f"node {self.name} of cluster {self.cluster}"
            case "controller":
                return f"the controller of cluster {self.cluster}"
            case "member":
                return f"cluster {self.cluster} of federation {self.name}"
            case "local":
                return f"{self.name or 'a process'} on the server's machine"
            case "nobody":
                return f"a caller without a role ({self.why})"
        return f"{self.role} {self.name}"

    def encode(self) -> str:
        """The header's value: role, cluster and name, percent-encoded, with slashes between."""
        return "/".join(quote(part, safe="") for part in (self.role, self.cluster, self.name))

    @staticmethod
    def decode(text: str) -> Caller:
        """As `encode` wrote it; `Problem` bad-request for anything else."""
        parts = [unquote(part) for part in text.split("/")]
        if len(parts) == 3:
            role, cluster, name = parts
            if role == "local" and not cluster and name.isprintable() and len(name) <= 64:
                return Caller("local", name=name)
            for known in ORGANIZATIONS:
                if role == known != "member" and not _fault(known, cluster, name):
                    return Caller(known, cluster, name)
        raise Problem("bad-request", f"the header {HEADER} names no caller: {text[:200]!r}")


LOCAL: Final = Caller("local")
"""Somebody on a Unix socket or a loopback address without TLS: every role."""

STRANGER: Final = Caller("nobody", why="it showed no certificate")
"""Somebody who was not asked for a certificate, or did not show one."""

_current: ContextVar[Caller] = ContextVar("caller", default=LOCAL)


def current() -> Caller:
    """The caller of the request that is being worked on, by this task or the one it came from."""
    return _current.get()


def enter(caller: Caller) -> None:
    """Says for whom this task works from now on."""
    _current.set(caller)


def certified(certificate: Mapping[str, Any]) -> Caller:
    """The caller with this certificate, as `ssl.SSLSocket.getpeercert` gives it."""
    found = _parts(certificate, "subject")
    organizations = found.get("organizationName", [])
    role = _ROLES.get(organizations[0]) if len(organizations) == 1 else None
    if role is None:
        shown = ", ".join(organizations)[:120]
        return Caller("nobody", why=f"its certificate says O={shown!r}, which is no role")
    if role == "member":
        return _member(found, _parts(certificate, "issuer"))
    units, commons = found.get("organizationalUnitName", []), found.get("commonName", [])
    if len(units) > 1 or len(commons) > 1:
        return Caller("nobody", why="its certificate has several OU or CN")
    cluster = units[0] if units and role in _OF_CLUSTERS else ""
    name = commons[0] if commons and role != "controller" else ""
    fault = _fault(role, cluster, name)
    if fault:
        return Caller("nobody", why=f"its certificate says O={organizations[0]}, but {fault}")
    return Caller(role, cluster, name)


def _parts(certificate: Mapping[str, Any], whose: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in certificate.get(whose, ()):
        for key, value in part:
            found.setdefault(key, []).append(value)
    return found


def _member(subject: Mapping[str, list[str]], issuer: Mapping[str, list[str]]) -> Caller:
    """A cluster speaks for itself with a certificate of its own authority alone, whose subject has
    the federation as OU and the cluster as CN."""
    match subject.get("organizationalUnitName"), issuer:
        case [cluster], {"organizationalUnitName": [federation], "commonName": [name]} if (
            name == cluster
            and names.matches(names.NAME, cluster)
            and names.matches(names.FEDERATION, federation)
        ):
            return Caller("member", cluster, federation)
    return Caller("nobody", why="its certificate is not of its own cluster's authority")


def _fault(role: Role, cluster: str, name: str) -> str:
    """What is wrong with a subject's OU and CN; empty if nothing."""
    if (role in _OF_CLUSTERS) != bool(cluster) or (
        cluster and not names.matches(names.NAME, cluster)
    ):
        return f"OU={cluster[:80]!r} is no cluster"
    if role == "controller":
        return "" if not name else "a controller has no name"
    if role == "node":
        return "" if names.matches(names.NODE, name) else f"CN={name[:80]!r} is no node"
    return "" if is_person(name) else f"CN={name[:80]!r} is no name"


def is_person(name: str) -> bool:
    """Whether an admin, a server or a monitor may be called so."""
    return _PERSON.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Who:
    """Which callers a row lets in; `roles` None: whoever has a certificate of our authority.

    Nodes and controllers are let in for the cluster in the path alone. `node` says where a row
    names the node that it is about, which must be a calling node itself: in the `path`, the
    `query`, the `body`, in each of the body's `items` (checked as the single request would be), or
    only in what is found (`answer`: whoever finds it calls `check_own`). Empty: nothing in the row
    is any one node's. A process on the server's machine has every role.
    """

    roles: frozenset[Role] | None
    node: Literal["", "path", "query", "body", "items", "answer"] = ""

    def words(self) -> str:
        """For people: `admins, controllers of the cluster, nodes for themselves`."""
        if self.roles is None:
            return "any certificate"
        said = {
            "admin": "admins",
            "controller": "controllers of the cluster",
            "node": "nodes of the cluster" + (", each for itself" if self.node else ""),
            "server": "servers",
            "monitor": "monitors",
        }
        return ", ".join(words for role, words in said.items() if role in self.roles)

    def check_role(self, caller: Caller, what: str) -> None:
        """`Problem` forbidden unless the caller has one of the roles."""
        if self.roles is not None and caller.role not in self.roles and caller.role != "local":
            raise _forbidden(caller, what, f"that is for {self.words()}", self.roles)

    def check_scope(
        self, caller: Caller, what: str, path: Mapping[str, Any], query: Any, body: Any
    ) -> None:
        """`Problem` forbidden where a caller of one cluster, or a node, asks about another one."""
        if self.roles is None or caller.role not in _OF_CLUSTERS:
            return
        if path.get("cluster", caller.cluster) != caller.cluster:
            raise _forbidden(caller, what, f"it is of cluster {caller.cluster}", self.roles)
        if caller.role != "node":
            return
        for node in self._nodes(path, query, body):
            if node != caller.name:
                shown = f"node {node}" if isinstance(node, str) else "all nodes"
                raise _forbidden(
                    caller, what, f"that is about {shown}, and it is {caller.name}", self.roles
                )

    def _nodes(self, path: Mapping[str, Any], query: Any, body: Any) -> Iterator[Any]:
        match self.node:
            case "path":
                yield path["node"]
            case "query":
                yield query.node
            case "body":
                yield body.node


ADMINS: Final = Who(frozenset({"admin"}))
"""Whatever a row does not say otherwise."""


def check_own(node: str, what: str) -> None:
    """`Problem` forbidden where a node is about to be told, or to change, what another one has."""
    caller = current()
    if caller.role == "node" and caller.name != node:
        raise _forbidden(caller, f"see {what}", "it is another node's", ADMINS.roles)


def _forbidden(caller: Caller, what: str, why: str, roles: frozenset[Role] | None) -> Problem:
    known = [f"O={ORGANIZATIONS[role]}" for role in ORGANIZATIONS if role in (roles or ())]
    return Problem(
        "forbidden",
        f"{caller} may not {what}: {why}",
        do=f"ask with a certificate that may: {' or '.join(known)}",
    )
