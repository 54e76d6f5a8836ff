"""Federations as Kubernetes and as a federation server have them, for tests."""

from __future__ import annotations

from typing import Any

from kube_controller.kinds import FINALIZER, Custom, Metadata
from netspace.messages.federating import FederationDetails, Local
from netspace.messages.federation import Federation, Member

FOUND: dict[str, Any] = {"found": True, "ranges": ["10.8.0.0/16"]}
JOIN: dict[str, Any] = {"token": {}, "ranges": ["10.8.0.0/16"]}


def custom(
    name: str = "east-west", *, going: bool = False, held: bool = True, at: int = 1, **spec: Any
) -> Custom:
    metadata = Metadata(
        name=name,
        uid=name,
        generation=at,
        finalizers=(FINALIZER,) if held else (),
        deletion_timestamp="now" if going else None,
    )
    return Custom(metadata=metadata, spec=spec)


def details(
    *others: str,
    founder: str = "east",
    own: str = "east",
    ranges: tuple[str, ...] = ("10.8.0.0/16",),
) -> FederationDetails:
    members = [
        Member(cluster=name, cni="bridge", endpoints=["https://a:1"], ca="")
        for name in (own, *others)
    ]
    return FederationDetails(
        name="east-west",
        founded=founder == own,
        local=Local(ranges=list(ranges)),
        federation=Federation(
            name="east-west", number=3, founder=founder, root="", vni=7, members=members
        ),
    )


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Kubernetes refuses one without a message."""
    assert all(each["message"] for each in status["conditions"])
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}
