"""The second door: what other clusters may ask. Members prove who they are by a certificate of
their own authority; whoever has none may see whose federation this is, and come with a token.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from federation.server import operations
from federation.server.api import MOST_PATIENT, PARAMETERS, Backend
from federation.server.place import member_of, record_of
from federation.server.service import Service
from netspace import callers, names
from netspace.asking import path, query
from netspace.callers import Caller, Who
from netspace.http_answers import Answer
from netspace.http_application import Request, application
from netspace.http_client import HttpClient
from netspace.http_requests import Head
from netspace.http_routes import Call, Relayed, Route
from netspace.http_work import Application, Limits, Work
from netspace.messages.federating import Authority, Departure, Joined, Joining, Witness
from netspace.messages.federation import Version
from netspace.messages.federation_trials import MemberTrial, NewTrial, TrialReport
from netspace.passing import PASSED_ON
from netspace.problems import Problem, invalid

Versioned = Annotated[str, Meta(pattern=r"^[0-9]{1,16}\.[0-9]{1,16}" + names.END)]


class InfoQuery(msgspec.Struct, kw_only=True):
    """`after` which version (epoch and number) there must be another one, and `known`, the number
    of the federation that the asker has; how many seconds to `wait`."""

    after: Versioned | UnsetType = UNSET
    known: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0
    wait: Annotated[float, Meta(ge=0, le=MOST_PATIENT)] = 20.0


class _Outside:
    """Lets nobody be more than a member, whatever the certificate says."""

    def __init__(self, inner: Application) -> None:
        self._inner = inner

    def admit(self, head: Head, who: Callable[[], Caller]) -> Work | Answer:
        def judged() -> Caller:
            caller = who()
            if caller.role in ("member", "nobody"):
                return caller
            return Caller("nobody", why=f"its certificate is of {caller}, and of no member")

        return self._inner.admit(head, judged)

    def refuse(self, problem: Problem) -> Answer:
        return self._inner.refuse(problem)


def make_door(backend: Backend, limits: Limits) -> Application:
    """What is asked at the second door."""
    return _Outside(
        application(ROUTES, backend, PARAMETERS, limits, backend.metrics.observe, _deliver)
    )


async def _deliver(route: Route[Backend], backend: Backend, call: Call, request: Request) -> Any:
    """Carries a request out if a member asks for its own federation, or anybody may."""
    if route.who is _MEMBERS:
        caller, name = callers.current(), call.path["federation"]
        record = backend.service.place.state.federations.get(name)
        if caller.name != name or record is None or member_of(record, caller.cluster) is None:
            raise Problem(
                "forbidden",
                f"{caller} is no member of federation {name} here",
                do="join it, if it was left or removed",
            )
    return await route.call(backend, call)


async def _authority(b: Backend, c: Call) -> Authority:
    name = c.path["federation"]
    record = record_of(b.service.place.state, name)
    founder = member_of(record, record.federation.founder)
    if founder is None or founder.cluster != b.service.place.cluster:
        raise Problem("owned", f"this is not the cluster that founded federation {name}")
    return Authority(
        federation=name,
        founder=founder.cluster,
        root=record.federation.root,
        authority=founder.ca,
    )


async def _info(b: Backend, c: Call) -> bytes:
    name, query, service = c.path["federation"], c.query, b.service
    after = None
    if query.after is not UNSET:
        epoch, _, number = query.after.partition(".")
        after = Version(epoch=int(epoch), number=int(number))
    await _look_back(service, name, after, query.known)
    return await service.views.info(name, after, query.known, query.wait)


async def _look_back(service: Service, name: str, after: Version | None, known: int) -> None:
    """Where the asker has seen more than there is, this server is behind, or the state was set
    back: the leader decides."""
    state = service.place.state
    own, record = state.own.get(name), record_of(state, name)
    founded = record.federation.founder == service.place.cluster
    ahead = own is not None and after is not None and after > own.version
    if ahead or (founded and known > record.federation.number):
        body = Witness(version=after, number=known if founded else 0)
        await _at_leader(
            service,
            name,
            "witnesses",
            body,
            lambda: service.duty.restored(name, body.version, body.number),
        )


async def _join(b: Backend, c: Call) -> Any:
    service, name = b.service, c.path["federation"]
    return await _at_leader(
        service, name, "joinings", c.body, lambda: operations.joining(service, name, c.body)
    )


async def _leave(b: Backend, c: Call) -> None:
    service, name, member = b.service, c.path["federation"], c.path["member"]
    if member != callers.current().cluster:
        raise Problem("forbidden", f"{callers.current()} may not put {member} out")
    if record_of(service.place.state, name).federation.founder == member:
        raise invalid("member", "the founder does not leave")
    await _at_leader(
        service,
        name,
        "departures",
        Departure(member=member),
        lambda: operations.remove_member(service, name, member),
    )


async def _at_leader(
    service: Service,
    name: str,
    what: str,
    body: msgspec.Struct,
    here: Callable[[], Any],
    *,
    repeat: bool = True,
) -> Any:
    """Carries out here what the leader must do, or asks the leader at its first door."""
    data = msgspec.json.encode(body)
    target = path("clusters", service.place.cluster, "federations", name, what)
    return await service.led(
        here, _asked(service, "POST", target, data, repeat=repeat), repeat=repeat
    )


def _asked(
    service: Service, method: str, target: str, data: bytes = b"", *, repeat: bool
) -> Callable[[HttpClient], Awaitable[Relayed]]:
    """What the leader answers at its first door."""

    async def there(client: HttpClient) -> Relayed:
        headers = ((PASSED_ON, service.me.name),)
        return Relayed(await client.request(method, target, data, repeat=repeat, headers=headers))

    return there


async def _begin_trial(b: Backend, c: Call) -> Any:
    """Whoever asks has its own paths tried, and nobody else's."""
    service, name = b.service, c.path["federation"]
    asker = callers.current().cluster
    asked = msgspec.structs.asdict(c.body)
    new = NewTrial(cluster=asker, asker=asker, both=False, **asked)

    async def here() -> TrialReport:
        return service.duty.trials.begin(name, new, time.monotonic())

    return await _at_leader(service, name, "trials", new, here, repeat=False)


async def _trial(b: Backend, c: Call) -> Any:
    service, name, trial = b.service, c.path["federation"], c.path["trial"]
    asker = callers.current().cluster

    async def here() -> TrialReport:
        return service.duty.trials.report(name, trial, asker, time.monotonic())

    target = path("clusters", service.place.cluster, "federations", name, "trials", trial)
    there = _asked(service, "GET", target + query(asker=asker), repeat=True)
    return await service.led(here, there, repeat=True)


_ANYBODY: Final = Who(None)
_MEMBERS: Final = Who(frozenset({"member"}))

_F: Final = "/v1/federations/{federation}"

# fmt: off
ROUTES: Final[tuple[Route[Backend], ...]] = (
    Route("GET", f"{_F}/authority", "Whose federation this is",
          _authority, answer=Authority, problems=("not-found", "owned"), who=_ANYBODY),
    Route("POST", f"{_F}/members", "Become a member by a token",
          _join, body=Joining, answer=Joined, repeat=True, who=_ANYBODY),
    Route("DELETE", f"{_F}/members/{{member}}", "Leave",
          _leave, repeat=True, who=_MEMBERS),
    Route("GET", f"{_F}/info", "This cluster's information, once it is newer",
          _info, answer=bytes, query=InfoQuery, who=_MEMBERS),
    Route("POST", f"{_F}/trials", "Have this cluster's nodes try their paths to the member",
          _begin_trial, body=MemberTrial, answer=TrialReport, status=201, who=_MEMBERS),
    Route("GET", f"{_F}/trials/{{trial}}", "A trial that the member has asked for",
          _trial, answer=TrialReport, who=_MEMBERS),
    Route("GET", "/healthz", "Whether the process lives",
          lambda b, c: _alive(), answer=bytes, media="text/plain", always=True, who=_ANYBODY),
)
# fmt: on


async def _alive() -> bytes:
    return b"ok\n"
