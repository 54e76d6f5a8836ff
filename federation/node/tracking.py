"""The paths of this node as they are followed: probes of them, how they are by the rules of
`plan/paths.py`, and who is to be told when flows may take one or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from federation.desired import DesiredNode, Path
from federation.node import adopting, measuring
from federation.node.config import ProbesSection
from federation.node.findings import Finding, finding
from federation.node.ipsec import TunnelState
from federation.node.prober import Prober, Target
from federation.node.probing import Window
from federation.node.responder import Responder
from federation.plan import paths as rules
from federation.plan.paths import PathState
from hostnet.xfrm import Policy, State
from netspace.messages.federation import View
from netspace.problems import Problem

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heard:
    """`moved`: flows may take a path, or may not any more; `changed`: something that plans look at
    is another, as its MTU; `lost`: a probe was."""

    moved: Callable[[], None]
    changed: Callable[[], None]
    lost: Callable[[], None]


def unless_last(paths: Mapping[Path, PathState], path: Path, after: PathState) -> PathState:
    """The state after an event, or the same but usable where lost probes would take the last path
    to a cluster out whose tunnel is up: what is left carries more than nothing, and it may be the
    answers alone that are late or lost."""
    before = paths[path]
    if after.usable or not (before.usable and after.up):
        return after
    peer = path.federation, path.cluster
    others = (
        state.usable
        for other, state in paths.items()
        if other != path and (other.federation, other.cluster) == peer
    )
    return after if any(others) else replace(after, usable=True)


class Tracking:
    """Follows the paths that it is told. Made in the event loop that runs it."""

    def __init__(self, section: ProbesSection, heard: Heard) -> None:
        self._section, self._heard = section, heard
        self._loop = asyncio.get_running_loop()
        self._losses: dict[str, int] = {}
        self._mesh: tuple[View, object, Mapping[Path, Target]] | None = None
        self.paths: dict[Path, PathState] = {}
        self._small: dict[Path, int] = {}
        self.prober = Prober(self._probed, self._measured, section.window, section.mtu)
        self.responder = Responder()

    def adopt(
        self, desired: DesiredNode, states: Iterable[State], policies: Iterable[Policy]
    ) -> None:
        """Takes up the tunnels that an earlier agent left."""
        self.paths = adopting.adopted(desired, states, policies, self._loop.time())
        if self.paths:
            logger.info("tunnels that are there are taken up", extra={"count": len(self.paths)})

    def follow(self, desired: DesiredNode, view: View, tunnels: Mapping[Path, TunnelState]) -> None:
        """Follows the tunnels of the plan from now on; `tunnels`: how they are by their driver,
        which tells of changes alone."""
        self._losses = {
            one.federation.name: one.federation.settings.losses for one in view.federations
        }
        self.paths = rules.follow(self.paths, desired.tunnels)
        now = self._loop.time()
        for path, state in self.paths.items():
            told = tunnels.get(path)
            if not state.up and told is not None and told.state == "up":
                self.paths[path] = rules.observe(state, "up", now, 1)

    def probe(self, desired: DesiredNode, view: View, mtu: int, *, ipv6: bool) -> list[Finding]:
        """Probes the plan's paths from now on, and answers others' probes; what keeps it from
        that. `mtu`: the underlay's."""
        targets = measuring.tunnel_targets(desired, view, mtu)
        if ipv6:
            targets |= self._mesh_targets(desired, view)
        self.prober.want(targets)
        self._small = {path: mtu for path, mtu in self._small.items() if path in targets}
        try:
            self.responder.serve({one.federation.settings.probe_port for one in view.federations})
        except Problem as problem:
            return [finding("configuration", "probes", str(problem))]
        return []

    def _mesh_targets(self, desired: DesiredNode, view: View) -> Mapping[Path, Target]:
        """There may be tens of thousands, which change with the view and the devices alone."""
        devices = tuple((each.federation, each.local, each.mtu) for each in desired.vxlans)
        known = self._mesh
        if known is None or known[0] is not view or known[1] != devices:
            found = measuring.mesh_targets(desired, view, self._section.vxlan)
            known = self._mesh = view, devices, found
        return known[2]

    def tunnel(self, path: Path, told: TunnelState) -> None:
        """A tunnel's driver says how it is."""
        if told.state == "connecting":
            return
        self._observe(path, "up" if told.state == "up" else "down")
        if told.state == "up":
            self.prober.remeasure(path)

    def windows(self) -> Mapping[Path, Window]:
        return self.prober.windows()

    def close(self) -> None:
        self.prober.close()
        self.responder.close()

    def _probed(self, path: Path, answered: bool) -> None:
        if not answered:
            self._heard.lost()
        self._observe(path, "answered" if answered else "lost")

    def known(self) -> dict[Path, PathState]:
        """What plans are made of: the tunnels, and of VXLAN paths those to which less goes than the
        device takes."""
        small = {path: PathState(mtu=mtu) for path, mtu in self._small.items()}
        return small | self.paths

    def _measured(self, path: Path, size: int) -> None:
        state = self.paths.get(path)
        if state is not None and state.mtu != (size or None):
            self.paths[path] = rules.measured(state, size or None)
            self._heard.changed()
        elif state is None:
            target = self.prober.targets().get(path)
            before = self._small.pop(path, None)
            if target is not None and 0 < size < target.most:
                self._small[path] = size
            if self._small.get(path) != before:
                self._heard.changed()

    def _observe(self, path: Path, event: rules.Event) -> None:
        before = self.paths.get(path)
        if before is None:
            return  # Over VXLAN there is no other way, so that nothing follows from it.
        losses = self._losses.get(path.federation, 1)
        observed = rules.observe(before, event, self._loop.time(), losses)
        after = self.paths[path] = unless_last(self.paths, path, observed)
        if after.usable != before.usable:
            keys = {"path": f"{path.federation}/{path.cluster}/{path.node}", "lost": after.lost}
            logger.info("flows take it" if after.usable else "flows are moved away", extra=keys)
            self._heard.moved()
