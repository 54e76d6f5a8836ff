"""Macvlan interfaces: made straight in the namespace of a pod.

Kernels before 6.15 refuse a name that a link of the host has. Only then the interface is made under
a temporary name and renamed in the pod, which costs a grace period of RCU with the kernel's lock
for links held. The temporary name follows from the final one, so that whatever a killed call left
behind is found again by the next one, or by ``delete_macvlan``.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace

from hostnet import rtnetlink
from hostnet.errors import (
    AlreadyThere,
    InvalidValue,
    KernelError,
    LinkMissing,
    NameTaken,
    NetnsMissing,
    ParentMissing,
)
from hostnet.links import (
    Link,
    check_mac,
    check_mtu,
    check_name,
    delete_link,
    find_link,
    get_link,
    rename_link,
)
from hostnet.netlink import Net
from hostnet.netns import Netns

_MODE_NUMBERS = {"bridge": 4, "private": 1, "vepa": 2, "passthru": 8}
MODES = tuple(_MODE_NUMBERS)


@dataclass(frozen=True, slots=True)
class Macvlan:
    """A macvlan to be made.

    ``name``: in the pod's namespace; ``parent``: the name of the link it lies on; ``mode``:
    one of ``MODES``; ``mac``: None lets the kernel choose; ``mtu``: 0 inherits the parent's.
    """

    name: str
    parent: str
    mode: str = "bridge"
    mac: str | None = None
    mtu: int = 0


def temporary_name(name: str) -> str:
    """The name under which the macvlan ``name`` is made where the host has a link of that name."""
    return "nsp" + hashlib.sha256(name.encode()).hexdigest()[:12]


def add_macvlan(
    home: Net, pod: Net, target: Netns, wanted: Macvlan, parent: Link | None = None
) -> Link:
    """Make the macvlan in ``target`` and return it as seen there; it is still down.

    ``home``: where the parent lives (the host, or ``pod`` itself); ``pod``: a ``Net`` in
    ``target``; ``parent``: where it was just looked up. What fails leaves no link behind. Errors:
    ``InvalidName``, ``InvalidMac``, ``InvalidMtu``, ``InvalidValue`` (the mode), ``ParentMissing``,
    ``NameTaken``, ``Busy`` (the parent is in a bridge, or in passthru already).
    """
    what = f"make the macvlan {wanted.name} on"
    check_name(wanted.name)
    if target.fd < 0:
        raise NetnsMissing(what, wanted.parent, f"{target.path} is closed", "open it again")
    if wanted.mode not in MODES:
        raise InvalidValue(
            what, wanted.parent, f"{wanted.mode!r} is no mode of it", f"use {', '.join(MODES)}"
        )
    parent = parent or find_link(home, wanted.parent)
    if parent is None:
        raise ParentMissing(
            what, wanted.parent, "there is no such link", "make it first, or correct the name"
        )
    mtu = check_mtu(wanted.mtu, parent)
    mac = None if wanted.mac is None else check_mac(wanted.mac)

    def make(name: str) -> Link:
        request = rtnetlink.add_macvlan(
            name, parent.index, target.fd, _MODE_NUMBERS[wanted.mode], mac, mtu
        )
        try:
            home.do(what, wanted.parent, request)
        except LinkMissing as error:
            raise ParentMissing(
                what, wanted.parent, error.why, "it was just deleted; make it again"
            ) from None
        except KernelError:
            raise
        except BaseException:
            _undo(pod, name)
            raise
        try:
            return get_link(pod, name)
        except BaseException:
            _undo(pod, name)
            raise

    with suppress(AlreadyThere):
        return make(wanted.name)
    temporary = temporary_name(wanted.name)
    try:
        made = make(temporary)
    except AlreadyThere:
        delete_link(pod, temporary)
        made = make(temporary)
    try:
        rename_link(pod, made, wanted.name)
    except NameTaken:
        _undo(pod, made.index)
        raise _taken(wanted) from None
    except BaseException:
        _undo(pod, made.index)
        raise
    return replace(made, name=wanted.name)


def _undo(pod: Net, made: str | int) -> None:
    # The error that began it is what matters.
    with suppress(KernelError):
        delete_link(pod, made)


def delete_macvlan(pod: Net, name: str) -> bool:
    """Delete the link ``name`` and what an interrupted ``add_macvlan`` left; False if neither.

    The parent is not needed for it.
    """
    left = delete_link(pod, temporary_name(name))
    return delete_link(pod, name) or left


def _taken(wanted: Macvlan) -> NameTaken:
    return NameTaken(
        f"make the macvlan {wanted.name} on",
        wanted.parent,
        f"the pod has a link {wanted.name} already",
        "delete that one, or choose another interface name",
    )
