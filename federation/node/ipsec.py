"""The driver of IPsec tunnels: brings charon to the tunnels that a node wants, and tells how they
are.

What is wanted is given as a whole and brought about again and again: what is missing is loaded and
brought up, for ever, with growing pauses; what is not wanted is ended, and only that. A tunnel
that is up is left alone, whoever made it: an earlier agent, or before its certificate was renewed.
charon and its security associations outlive this driver; where charon itself ended, the kernel
keeps what it had, so a tunnel counts as up until it cannot be had again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Final, Literal

from federation.desired import Accept, Path, Tunnel
from federation.node.connections import (
    PREFIX,
    Association,
    Membership,
    accept_connection,
    accept_name,
    associations,
    fits,
    reason,
    tunnel_connection,
    tunnel_name,
)
from federation.node.ike import Given, Ike, Lost, Refused, Section, sections, text
from federation.node.leftovers import ORPHANED, States
from hostnet.kernel import Kernel
from hostnet.netns import Netns

logger = logging.getLogger(__name__)

_EVENTS: Final = ("ike-updown", "child-updown")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 4.0
_ATTEMPT: Final = 8.0
"""Seconds; charon itself gives a silent peer up before."""
_AT_ONCE: Final = 12
"""Attempts; each holds one of charon's threads."""
_RECONNECT: Final = 0.2
_PATIENCE: Final = 10.0
"""Seconds without charon after which its tunnels are said to be down."""
_LOOK: Final = 30.0
"""Seconds between looks at what no event spoke of."""


@dataclass(frozen=True, slots=True)
class TunnelState:
    """`why`: what keeps it from being up, for people; empty while it is."""

    state: Literal["up", "connecting", "down"]
    why: str = ""


CONNECTING: Final = TunnelState("connecting")
UP: Final = TunnelState("up")
LINGER: Final = 5.0
"""Seconds that a connection which is not wanted any more stays while its cluster has others: until
those who send by it have learned of that."""

Told = Callable[[Path, TunnelState], None]


@dataclass(slots=True)
class _Kept:
    """One wanted tunnel, and how far it is. `held`: an earlier charon brought it up and ended, and
    the kernel still has it."""

    tunnel: Tunnel
    failures: int = 0
    due: float = 0.0
    held: bool = False
    attempt: asyncio.Task[None] | None = None
    found: list[Association] = field(default_factory=list)

    @property
    def good(self) -> list[Association]:
        return [one for one in self.found if one.carries and fits(one, self.tunnel)]

    @property
    def waits(self) -> bool:
        """For its time to be brought up."""
        return self.attempt is None and not self.good

    def is_due(self, now: float) -> bool:
        return self.waits and now >= self.due


class IpsecDriver:
    """Give it what is wanted by `want`, as often as it changes; before the first time it ends and
    makes nothing. `run` works until it is cancelled, which leaves everything as it is. `told` is
    called when a tunnel's state changes, from the event loop. `netns`: charon's, None for this
    process's own. `orphaned`: seconds."""

    def __init__(
        self,
        vici: File,
        told: Told,
        kernel: Kernel | None = None,
        netns: Netns | None = None,
        orphaned: float = ORPHANED,
    ) -> None:
        self._vici, self._told, self._orphaned = vici, told, orphaned
        self._states = States(kernel or Kernel(), netns)
        self._tunnels: dict[str, _Kept] = {}
        self._wanted: dict[str, Given] = {}
        self._loaded: dict[str, Given] = {}
        self._memberships: dict[str, Membership] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._given = asyncio.Event()
        self._look_now = False
        self._spared: set[str] = set()
        self._clusters: dict[str, tuple[str, str]] = {}
        self._lingering: dict[str, float] = {}
        self._renewals: set[str] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._unreachable = ""
        self._wrong: list[str] = []
        self._refused: list[str] = []
        self.states: dict[Path, TunnelState] = {}

    @property
    def faults(self) -> list[str]:
        """What keeps the driver from its work, for people."""
        return ([self._unreachable] if self._unreachable else []) + self._wrong + self._refused

    def want(
        self,
        tunnels: Iterable[Tunnel],
        accepts: Iterable[Accept],
        memberships: Iterable[Membership],
    ) -> None:
        """From now on these tunnels and no others. A federation's last known membership stands
        while it has any; what never had one is left as it is, with a fault."""
        tunnels, accepts = list(tunnels), list(accepts)
        used = {each.path.federation for each in tunnels} | {each.federation for each in accepts}
        before = {name: one for name, one in self._memberships.items() if name in used}
        self._memberships = before | {one.federation: one for one in memberships}
        self._wrong, self._spared = [], set()
        clusters = {tunnel_name(t.path): (t.path.federation, t.path.cluster) for t in tunnels}
        clusters |= {accept_name(each): (each.federation, each.cluster) for each in accepts}
        self._linger(clusters)
        wanted: dict[str, Given] = {}
        kept: dict[str, _Kept] = {}
        for tunnel in tunnels:
            name = tunnel_name(tunnel.path)
            try:
                membership = self._membership(tunnel.path.federation)
                wanted[name] = tunnel_connection(tunnel, membership)
            except ValueError as error:
                self._wrong.append(f"no tunnel to {tunnel.path.node}: {error}")
                self._spared.add(name)
                continue
            kept[name] = self._tunnels.get(name) or _Kept(tunnel)
            if self._wanted.get(name) != wanted[name]:
                self._dirty.add(name)
            kept[name].tunnel = tunnel
            self.states.setdefault(tunnel.path, CONNECTING)
        for accept in accepts:
            name = accept_name(accept)
            try:
                wanted[name] = accept_connection(accept, self._membership(accept.federation))
            except ValueError as error:
                self._wrong.append(f"no tunnels from {accept.cluster}: {error}")
                self._spared.add(name)
        for name, gone in self._tunnels.items():
            if name not in kept and gone.attempt is not None:
                gone.attempt.cancel()
        self._tunnels, self._wanted = kept, wanted
        paths = {each.tunnel.path for each in kept.values()}
        self.states = {path: state for path, state in self.states.items() if path in paths}
        self._given.set()
        self._wake.set()

    def check(self) -> None:
        """Compares all tunnels with charon and the kernel now: something says that one that is up
        carries nothing. It is done every half a minute as well."""
        self._look_now = True
        self._wake.set()

    def renew(self, path: Path) -> None:
        """Has new keys made for a tunnel that is up: where probes of it are silent for long, the
        other end may have lost its states, of which no charon knows."""
        self._renewals.add(tunnel_name(path))
        self._wake.set()

    async def run(self) -> None:
        """Works for ever; what charon cannot do is tried again."""
        await self._given.wait()
        since = time.monotonic()
        try:
            while True:
                try:
                    async with Ike(self._vici, _EVENTS, self._event) as ike:
                        await self._session(ike)
                except (Lost, Refused) as error:
                    if not self._unreachable:
                        logger.warning("charon cannot be used", extra={"why": str(error)})
                        since = time.monotonic()
                    self._unreachable = str(error)
                await self._stop_attempts()
                if time.monotonic() - since > _PATIENCE:
                    for kept in self._tunnels.values():
                        self._tell(kept, TunnelState("down", self._unreachable))
                await asyncio.sleep(_RECONNECT)
        finally:
            await self._stop_attempts()

    def _linger(self, clusters: dict[str, tuple[str, str]]) -> None:
        """Has what is not wanted any more stay for a while, where its cluster still has other
        connections; `clusters`: of what is wanted from now on."""
        known, now = self._clusters | clusters, time.monotonic()
        gone = (self._clusters.keys() | self._lingering.keys()) - clusters.keys()
        served = set(clusters.values())
        ends = {name: self._lingering.get(name, now + LINGER) for name in gone}
        self._lingering = {
            name: end for name, end in ends.items() if end > now and known.get(name) in served
        }
        self._clusters = {name: known[name] for name in clusters.keys() | self._lingering.keys()}

    def _is_wanted(self, name: str) -> bool:
        lingers = self._lingering.get(name, 0.0) > time.monotonic()
        return name in self._wanted or name in self._spared or lingers

    def _membership(self, federation: str) -> Membership:
        try:
            return self._memberships[federation]
        except KeyError:
            raise ValueError(
                f"this node has no certificate in the federation {federation} yet"
            ) from None

    def _event(self, event: str, told: Section) -> None:
        for name, _ in sections(told):
            if name in self._tunnels:
                self._dirty.add(name)
                self._wake.set()

    async def _session(self, ike: Ike) -> None:
        """One connection to charon, maybe another one than before: nothing is taken as loaded."""
        self._loaded, self._keys = {}, {}
        self._dirty = set(self._tunnels)
        for kept in self._tunnels.values():
            kept.held = self.states.get(kept.tunnel.path) == UP
            kept.failures, kept.due = 0, 0.0
        for conns in await ike.listed("list-conns", "list-conn"):
            for name, _ in sections(conns):
                if name.startswith(PREFIX) and not self._is_wanted(name):
                    await self._unload(ike, name)
        self._unreachable = ""
        unknown = await self._states.unknown(ike)
        sweep = time.monotonic() + self._orphaned if unknown else float("inf")
        look = time.monotonic() + _LOOK
        while True:
            self._wake.clear()
            await self._load(ike)
            now = time.monotonic()
            if now >= look or self._look_now:
                self._look_now = False
                await self._audit(ike)
                self._dirty |= set(self._tunnels)
                look = now + _LOOK
            while self._renewals:
                await self._rekey(ike, self._renewals.pop())
            if now >= sweep:
                await self._states.sweep(ike, unknown)
                sweep = float("inf")
            self._dirty |= {name for name, kept in self._tunnels.items() if kept.is_due(now)}
            while self._dirty:
                await self._look_at(ike, self._dirty.pop())
            waiting = [kept for kept in self._tunnels.values() if kept.waits]
            ends = [end for end in self._lingering.values() if end > now]
            pauses = [look, sweep, *ends] + [kept.due for kept in waiting]
            if await self._woken(ike, min(pauses) - time.monotonic()):
                raise Lost(f"charon at {self._vici} ended")

    async def _woken(self, ike: Ike, seconds: float) -> bool:
        """Waits for news, at most so long; whether it is that charon is lost."""
        waiting = [asyncio.ensure_future(each.wait()) for each in (self._wake, ike.lost)]
        try:
            await asyncio.wait(
                waiting, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for each in waiting:
                each.cancel()
        return ike.lost.is_set()

    async def _load(self, ike: Ike) -> None:
        """Keys, authorities and connections, where they are not what they should be."""
        self._refused = []
        for federation, membership in self._memberships.items():
            if self._keys.get(federation, ("", ""))[0] != membership.key:
                told = await self._put(ike, "load-key", {"type": "any", "data": membership.key})
                if told is not None:
                    await self._forget_key(ike, federation)
                    self._keys[federation] = membership.key, text(told, "id")
        authorities = {
            pem
            for each in self._memberships.values()
            for pem in (each.root, *each.members.values())
        }
        for pem in sorted(authorities - self._loaded.keys()):
            message = {"type": "X509", "flag": "CA", "data": pem}
            if await self._put(ike, "load-cert", message) is not None:
                self._loaded[pem] = {}
        for name in [name for name in self._loaded if name.startswith(PREFIX)]:
            if not self._is_wanted(name):
                await self._unload(ike, name)
        for name, connection in self._wanted.items():
            if self._loaded.get(name) == connection:
                continue
            if await self._put(ike, "load-conn", {name: connection}) is not None:
                self._loaded[name] = connection
        for federation in self._keys.keys() - self._memberships.keys():
            await self._forget_key(ike, federation)

    async def _put(self, ike: Ike, command: str, message: Given) -> Section | None:
        """The answer; None where charon refused, which is a fault."""
        try:
            return await ike.request(command, message)
        except Refused as refused:
            self._refused.append(f"charon refused to {command.replace('-', ' ')}: {refused}")
            return None

    async def _forget_key(self, ike: Ike, federation: str) -> None:
        _, identity = self._keys.pop(federation, ("", ""))
        if identity and identity not in [each for _, each in self._keys.values()]:
            await self._put(ike, "unload-key", {"id": identity})

    async def _unload(self, ike: Ike, name: str) -> None:
        self._loaded.pop(name, None)
        for command, message in (
            ("unload-conn", {"name": name}),
            ("terminate", {"ike": name, "force": "yes", "timeout": "-1"}),
        ):
            try:
                await ike.request(command, message)
            except Refused:
                continue  # It is not there.
        logger.info("a connection is ended", extra={"connection": name})

    async def _look_at(self, ike: Ike, name: str) -> None:
        """How a tunnel is, and what follows: nothing, an attempt, the end of what it replaced."""
        kept = self._tunnels.get(name)
        if kept is None:
            return
        kept.found = associations(await ike.listed("list-sas", "list-sa", {"ike": name}))
        if kept.good:
            kept.failures, kept.due, kept.held = 0, 0.0, False
            self._tell(kept, UP)
            await self._end_others(ike, kept)
            return
        if self.states.get(kept.tunnel.path) == UP and not kept.held:
            self._tell(kept, CONNECTING)
        if kept.is_due(time.monotonic()):
            kept.attempt = asyncio.create_task(self._bring_up(name, kept))

    async def _rekey(self, ike: Ike, name: str) -> None:
        if name in self._tunnels:
            try:
                await ike.request("rekey", {"child": name})
            except Refused:
                self._dirty.add(name)

    async def _end_others(self, ike: Ike, kept: _Kept) -> None:
        """Ends what no longer fits now that there is something in its place."""
        fitting = {one.ike for one in kept.found if fits(one, kept.tunnel)}
        for one in kept.found:
            if one.child and not fits(one, kept.tunnel):
                whole = one.ike not in fitting
                which = {"ike-id": f"{one.ike}"} if whole else {"child-id": f"{one.child}"}
                try:
                    await ike.request("terminate", {**which, "timeout": "-1"})
                except Refused:
                    continue

    async def _bring_up(self, name: str, kept: _Kept) -> None:
        """One attempt, on a connection of its own: charon answers when it came to an end."""
        message = {"ike": name, "child": name, "timeout": f"{_ATTEMPT * 1000:.0f}", "loglevel": "1"}
        try:
            async with self._slots, Ike(self._vici) as ike:
                said, refused = await ike.attempt("initiate", "control-log", message, _ATTEMPT + 5)
        except (Lost, Refused):
            # The session finds out by itself.
            return
        finally:
            kept.attempt = None
            pause = min(_FIRST_PAUSE * 2 ** min(kept.failures, 10), _LONGEST_PAUSE)
            kept.failures += 1
            # Not all nodes at once, when a gateway comes back.
            kept.due = time.monotonic() + pause * random.uniform(0.7, 1.0)
            self._dirty.add(name)
            self._wake.set()
        if refused:
            why = reason([text(line, "msg") for line in said], refused, kept.tunnel)
            self._tell(kept, TunnelState("down", why))

    def _tell(self, kept: _Kept, state: TunnelState) -> None:
        path = kept.tunnel.path
        if self.states.get(path) == state:
            return
        self.states[path] = state
        keys = {"path": f"{path.federation}/{path.cluster}/{path.node}", "why": state.why}
        logger.info(f"the tunnel is {state.state}", extra=keys)
        self._told(path, state)

    async def _audit(self, ike: Ike) -> None:
        """Ends tunnels whose states somebody deleted: they are brought up again."""
        for name, child in await self._states.deleted(ike, list(self._tunnels)):
            logger.warning("a tunnel's states were deleted", extra={"connection": name})
            message = {"child-id": f"{child}", "force": "yes", "timeout": "-1"}
            await self._put(ike, "terminate", message)
            self._dirty.add(name)

    async def _stop_attempts(self) -> None:
        running = [kept.attempt for kept in self._tunnels.values() if kept.attempt is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
