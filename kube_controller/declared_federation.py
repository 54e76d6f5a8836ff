"""From a Federation to what is asked of the federation server. Pure; whatever cannot be is a
`Problem`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from kube_controller.declared import read
from kube_controller.kinds import Custom
from netspace import names
from netspace.messages.federating import (
    ChangeFederation,
    FederationDetails,
    Local,
    NewFederation,
)
from netspace.messages.federation import Pair, Settings, Vni
from netspace.problems import Problem, invalid

SECRET: Final = "netspace-federation-token"
"""The Secret that the manifests let the controller read."""


class TokenSource(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where the token is, in the controller's own namespace."""

    secret: Annotated[str, Meta(pattern=names.NODE)] = SECRET
    key: Annotated[str, Meta(pattern=r"^[-._a-zA-Z0-9]{1,253}" + names.END)] = "token"


class DeclaredFederation(Local, kw_only=True, forbid_unknown_fields=True):
    """The `spec`. `pairs`, `settings` None: whatever there is stays."""

    found: bool = False
    token: TokenSource | None = None
    vni: Vni | None = None
    pairs: Annotated[list[Pair], Meta(max_length=32_640)] | None = None
    settings: Settings | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """To be asked with the token that is at `token`."""

    token: TokenSource
    local: Local


Step = NewFederation | Join | ChangeFederation

_LOCAL: Final = Local.__struct_fields__
_FOUNDERS: Final = ("pairs", "settings")


def federation(custom: Custom) -> DeclaredFederation:
    """`Problem` invalid."""
    if not names.matches(names.FEDERATION, custom.name):
        why = "a federation's name begins with a letter and has lower-case letters, digits and '-'"
        raise invalid("metadata.name", why)
    wanted = read(custom.spec, DeclaredFederation)
    if wanted.found == (wanted.token is not None):
        raise invalid(
            "spec",
            "it does not say how this cluster becomes a member",
            do="declare either `found: true` or `token`",
        )
    for field in ("vni", *_FOUNDERS):
        if not wanted.found and getattr(wanted, field) is not None:
            raise invalid(f"spec.{field}", "it is the founder's", do="declare it there")
    return wanted


def step(name: str, wanted: DeclaredFederation, found: FederationDetails | None) -> Step | None:
    """The one request that a federation needs, if any. A pair's kind waits for both to be
    members."""
    local = Local(**{field: getattr(wanted, field) for field in _LOCAL})
    if found is None:
        if wanted.token is not None:
            return Join(wanted.token, local)
        settings = wanted.settings or Settings()
        return NewFederation(name=name, local=local, vni=wanted.vni, settings=settings)
    _check(name, wanted, found)
    changed: dict[str, Any] = {
        field: getattr(wanted, field)
        for field in _LOCAL
        if getattr(wanted, field) != getattr(found.local, field)
    }
    federation = found.federation
    if wanted.settings not in (None, federation.settings):
        changed["settings"] = wanted.settings
    if wanted.pairs is not None:
        members = {member.cluster for member in federation.members}
        pairs = [pair for pair in wanted.pairs if {pair.one, pair.other} <= members]
        if pairs != federation.pairs:
            changed["pairs"] = pairs
    return ChangeFederation(**changed) if changed else None


def _check(name: str, wanted: DeclaredFederation, found: FederationDetails) -> None:
    founder = found.federation.founder
    if wanted.found and not found.founded:
        raise Problem(
            "owned",
            f"cluster {founder} has founded federation {name}, and this cluster is a member of it",
            do="declare `token` in the place of `found`, or give this object another name",
        )
    if not wanted.found and found.founded:
        raise invalid(
            "spec.token", f"this cluster has founded federation {name}", do="declare `found: true`"
        )
    if wanted.vni not in (None, found.federation.vni):
        raise invalid(
            "spec.vni",
            f"it never changes: {found.federation.vni} -> {wanted.vni}",
            do="leave it out, or found another federation",
        )
