"""A path to another cluster's node, and how what happens on it changes whether flows may take it.

Pure: time is a value (seconds of one monotonic clock), what happened is an event. A path goes out
after so many lost probes in a row or when its tunnel goes down, and comes back once the tunnel is
up and every probe of a whole second was answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from federation.desired import Path, Tunnel

WELL_FOR: Final = 1.0
"""Seconds of answered probes that bring a path back."""

Event = Literal["up", "down", "answered", "lost"]
"""The tunnel came up, went down; a probe was answered, was lost."""


@dataclass(frozen=True, slots=True)
class PathState:
    """`up`: whether the tunnel is. `lost`: probes lost in a row. `well`: since when (monotonic
    seconds) tunnel and probes have been good, None while they are not. `usable`: whether flows may
    take it. `mtu`: of the packets that go through, bytes, None until measured. `ordinal`: the one
    that the tunnel was made with, 0 before there is one."""

    up: bool = False
    lost: int = 0
    well: float | None = None
    usable: bool = False
    mtu: int | None = None
    ordinal: int = 0


def found(now: float, ordinal: int, mtu: int | None = None) -> PathState:
    """A path whose tunnel an earlier agent left up: flows take it until probes are lost, so that
    an agent that starts again breaks nothing."""
    return PathState(up=True, well=now, usable=True, mtu=mtu, ordinal=ordinal)


def observe(state: PathState, event: Event, now: float, losses: int) -> PathState:
    """The state after an event at `now`; `losses` in a row take the path out."""
    match event:
        case "up":
            return state if state.up else replace(state, up=True, lost=0, well=None, usable=False)
        case "down":
            return replace(state, up=False, well=None, usable=False)
        case "lost":
            lost = state.lost + 1
            usable = state.usable and lost < losses
            return replace(state, lost=lost, usable=usable, well=state.well if usable else None)
        case "answered":
            if not state.up:
                return replace(state, lost=0)
            well = now if state.well is None else state.well
            return replace(state, lost=0, well=well, usable=state.usable or now - well >= WELL_FOR)


def measured(state: PathState, mtu: int | None) -> PathState:
    """The state with what was measured to go through, in bytes."""
    return replace(state, mtu=mtu)


def follow(paths: Mapping[Path, PathState], tunnels: Iterable[Tunnel]) -> dict[Path, PathState]:
    """The paths of the tunnels that a plan wants: known ones as they are but with the plan's
    ordinal, new ones as new, the others gone."""
    return {
        tunnel.path: replace(paths.get(tunnel.path, PathState()), ordinal=tunnel.ordinal)
        for tunnel in tunnels
    }
