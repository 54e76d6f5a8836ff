"""Events on pods as values: what became of an ADD, in one reason and one sentence, and which of it
waits to be posted. Pure.

One event for each pod, interface and reason; what comes again counts up, says the latest words, and
is told to the API every `REPEAT` seconds at most. Source: core/v1 Event.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from cni_plugins.failures import server_away, to_cni_error
from cni_plugins.netconf import AnnotationError
from cni_plugins.protocol import CniError
from hostnet.errors import AddressConflict, KernelError
from netspace.messages import Pod
from netspace.problems import Problem

MOST: Final = 1000
"""Events that wait at most, and events that are remembered for their next time."""
REPEAT: Final = 10.0
"""Seconds between two times that one event is told to the API."""
REMEMBERED: Final = 3600.0
"""Seconds after which the API has forgotten an event (kube-apiserver, --event-ttl)."""
SOURCE: Final = "netspace-agent"
_LONGEST: Final = 1000
"""Characters of a message; kubectl shows it in one line."""

_REASONS: Final = {
    "pool-unknown": "PoolUnknown",
    "pool-forbidden": "PoolForbidden",
    "pool-missing": "PoolMissing",
    "pool-exhausted": "PoolExhausted",
    "pool-cooling": "PoolCooling",
    "address-taken": "AddressTaken",
    "address-cooling": "AddressCooling",
    "address-held": "AddressHeld",
    "address-unusable": "AddressUnusable",
    "family-missing": "FamilyMissing",
    "forbidden": "ServerRefused",
}
"""By the server's problem; what is not listed is `AddressFailed`."""

Kind = Literal["Normal", "Warning"]


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be told of a pod's interface."""

    pod: Pod
    ifname: str
    kind: Kind
    reason: str
    message: str

    @property
    def subject(self) -> Subject:
        return self.pod, self.ifname, self.reason


Subject = tuple[Pod, str, str]


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """What the API is to be told now. `count`: how often it happened altogether; `first` and `last`
    in seconds since the epoch; `name`: the event that is there already."""

    happening: Happening
    count: int
    first: float
    last: float
    name: str | None = None


class _Posted(msgspec.Struct, frozen=True):
    name: str
    count: int
    first: float
    at: float


class Book:
    """What waits and what was posted, both bounded. Moments are seconds since the epoch."""

    def __init__(self, most: int = MOST) -> None:
        self.dropped = 0
        self._most = most
        self._waiting: dict[Subject, Post] = {}
        self._posted: OrderedDict[Subject, _Posted] = OrderedDict()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def note(self, happening: Happening, now: float) -> None:
        """Something happened; where too much waits already, it is dropped and counted."""
        subject = happening.subject
        waiting = self._waiting.get(subject)
        if waiting is None and len(self._waiting) >= self._most:
            self.dropped += 1
            return
        count, first = (waiting.count, waiting.first) if waiting else (0, now)
        self._waiting[subject] = Post(happening=happening, count=count + 1, first=first, last=now)

    def next(self, now: float) -> Post | float | None:
        """What is to be posted now, which waits no longer; or in how many seconds something will
        be; None where nothing waits."""
        soonest: float | None = None
        for subject, post in self._waiting.items():
            before = self._remembered(subject, now)
            left = 0.0 if before is None else before.at + REPEAT - now
            if left <= 0:
                del self._waiting[subject]
                if before is None:
                    return post
                return msgspec.structs.replace(
                    post, count=before.count + post.count, first=before.first, name=before.name
                )
            soonest = left if soonest is None else min(soonest, left)
        return soonest

    def posted(self, post: Post, name: str, now: float) -> None:
        """The API has it under this name."""
        subject = post.happening.subject
        self._posted[subject] = _Posted(name, post.count, post.first, now)
        self._posted.move_to_end(subject)
        while len(self._posted) > self._most:
            self._posted.popitem(last=False)

    def _remembered(self, subject: Subject, now: float) -> _Posted | None:
        found = self._posted.get(subject)
        return found if found is not None and now - found.at < REMEMBERED else None


def assigned(pod: Pod, ifname: str, pool: str, network: str, addresses: Iterable[str]) -> Happening:
    """The interface has its addresses."""
    told = f"{ifname} has {' and '.join(addresses)} from pool {pool} (network {network})"
    return Happening(pod=pod, ifname=ifname, kind="Normal", reason="AddressAssigned", message=told)


def failed(pod: Pod, ifname: str, error: BaseException) -> Happening:
    """The interface could not be made."""
    failure = to_cni_error(error)
    told = f"{ifname}: {failure.msg}" + (f": {failure.details}" if failure.details else "")
    message = told if len(told) <= _LONGEST else told[: _LONGEST - 1] + "…"
    return Happening(
        pod=pod, ifname=ifname, kind="Warning", reason=reason_of(error), message=message
    )


def reason_of(error: BaseException) -> str:
    """One word for why a pod has no address; what was raised while something was undone counts as
    what it was undone for."""
    for each in _causes(error):
        match each:
            case AnnotationError():
                return "AnnotationInvalid"
            case AddressConflict():
                return "AddressConflict"
            case KernelError():
                return "InterfaceFailed"
            case Problem() if each.code in _REASONS:
                return _REASONS[each.code]
            case Problem() if server_away(each):
                return "ServerUnavailable"
    return "AddressFailed"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ if isinstance(error, CniError) else None


def created(post: Post, name: str, node: str) -> Mapping[str, Any]:
    """The event as it is made."""
    happening, pod = post.happening, post.happening.pod
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": pod.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            **({"uid": pod.uid} if pod.uid else {}),
        },
        "type": happening.kind,
        "reason": happening.reason,
        "message": happening.message,
        "count": post.count,
        "firstTimestamp": moment(post.first),
        "lastTimestamp": moment(post.last),
        "source": {"component": SOURCE, "host": node},
        "reportingComponent": SOURCE,
        "reportingInstance": node,
    }


def repeated(post: Post) -> Mapping[str, Any]:
    """What changes of an event that is there."""
    return {
        "message": post.happening.message,
        "count": post.count,
        "lastTimestamp": moment(post.last),
    }


def named(pod: Pod, random: str) -> str:
    """A name for a new event: the pod's, as far as there is room, and something random."""
    return f"{pod.name[:200].rstrip('.-')}.{random}"


def moment(seconds: float) -> str:
    """A `Time` (meta/v1)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
