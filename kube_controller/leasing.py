"""The rules of a Lease: who may take it, and what is written into it. Pure.

Nobody believes another machine's clock: a lease is over when nothing has been written into it for
its duration by the clock of whoever looks. Source: coordination.k8s.io/v1 Lease,
https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/lease-v1/.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from kube_controller.kinds import Metadata


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: LeaseSpec = LeaseSpec()

    @property
    def holder(self) -> str:
        return self.spec.holder_identity or ""


@dataclass(frozen=True, slots=True)
class Sight:
    """A version of a lease, and when it was first seen by the own clock, in seconds."""

    version: str
    since: float


def seen(before: Sight | None, lease: Lease, now: float) -> Sight:
    """The sight of a lease that was looked at now."""
    version = lease.metadata.resource_version
    return before if before is not None and before.version == version else Sight(version, now)


def free(lease: Lease, me: str, sight: Sight, now: float, duration: int) -> bool:
    """Whether `me` may take it: it is its own, nobody's, or its holder has fallen silent for as
    long as it said itself, or for `duration` where it has not."""
    said = lease.spec.lease_duration_seconds or duration
    return lease.holder in ("", me) or now - sight.since >= said


def taken(before: LeaseSpec, me: str, duration: int, wall: datetime) -> LeaseSpec:
    """What the lease says once `me` has taken or renewed it."""
    renewed = before.holder_identity == me
    changes = before.lease_transitions or 0
    return LeaseSpec(
        holder_identity=me,
        lease_duration_seconds=duration,
        acquire_time=before.acquire_time if renewed else micro_time(wall),
        renew_time=micro_time(wall),
        lease_transitions=changes if renewed else changes + 1,
    )


def given_up(before: LeaseSpec, wall: datetime) -> LeaseSpec:
    """What it says when its holder leaves: the next one need not wait."""
    return msgspec.structs.replace(
        before, holder_identity="", lease_duration_seconds=1, renew_time=micro_time(wall)
    )


def micro_time(wall: datetime) -> str:
    """`meta/v1 MicroTime`: RFC 3339 with six digits."""
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
