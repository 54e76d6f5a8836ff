"""Kernel settings of network namespaces under /proc/sys/net, and what a pod's interface wants.

A setting is named by its path segments, never by a dotted string: names of links contain
dots. /proc/sys/net shows the network namespace of the thread that opens the file, so a job
sees the one it runs in (Documentation/admin-guide/sysctl, net/sysctl_net.c).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from hostnet import calls
from hostnet.errors import InvalidValue, Ipv6Missing, KernelError, SysctlMissing, from_errno
from hostnet.links import Link
from hostnet.netlink import Net
from hostnet.rtnetlink import link_settings

_ROOT = "/proc/sys/net"
_MOST_BYTES = 1 << 12

POD_LINK = (
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "addr_gen_mode", "0"),
    ("ipv6", "disable_ipv6", "0"),
    ("ipv6", "keep_addr_on_down", "1"),
)
"""(family, setting, value) of a pod's interface before it goes up: take no addresses from routers,
have a link-local one that follows from the MAC, keep IPv6 addresses when it goes down."""

POD_LINK_UP = (("ipv4", "arp_notify", "1"), ("ipv6", "ndisc_notify", "1"))
"""The same once it is up: announce its addresses when it comes up again. The first time they are
announced by whoever made it, and would be twice."""

_LOCKED: Final = ("addr_gen_mode", "disable_ipv6")
"""Settings that wait for the kernel's lock for links."""


def read_sysctl(net: Net, *segments: str) -> str:
    """The value of net/SEGMENTS…, without the line's end. ``SysctlMissing``, ``Ipv6Missing``."""
    path = _path(net, segments)
    try:
        file = calls.open_file(path, os.O_RDONLY)
        try:
            return calls.read(file).decode("ascii").rstrip("\n")
        finally:
            calls.close_file(file)
    except OSError as error:
        raise _failed(error, "read", segments) from None


def write_sysctl(net: Net, value: str, *segments: str) -> str:
    """Set net/SEGMENTS… unless it has the value; the value it had before.

    Errors: ``SysctlMissing``, ``Ipv6Missing``, ``NotPermitted`` (also where /proc/sys is
    read-only), ``Refused`` (the kernel does not take the value).
    """
    path = _path(net, segments)
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        # Where /proc/sys is read-only, what is right already is no error.
        before = read_sysctl(net, *segments)
        if before == value:
            return before
        raise _failed(error, f"write {value!r} to", segments) from None
    try:
        before = os.read(file, _MOST_BYTES).decode("ascii").rstrip("\n")
        if before == value:
            return before
        # The kernel takes a value only from the beginning of the file.
        os.pwrite(file, value.encode("ascii"), 0)
    except OSError as error:
        raise _failed(error, f"write {value!r} to", segments) from None
    finally:
        os.close(file)
    net.changed("sysctl write")
    return before


def prepare_pod_link(net: Net, link: Link, *, ipv6: bool, up: bool = False) -> None:
    """Write ``POD_LINK`` for the link, which was just looked up, and with ``ipv6`` have the pod's
    ``lo`` take IPv6; with ``up``, ``POD_LINK_UP``.

    Without ``ipv6`` a kernel that has no IPv6 is fine; with it, that is ``Ipv6Missing``.
    """
    loopback = ("ipv6", "conf", "lo", "disable_ipv6")
    if ipv6 and not up and read_sysctl(net, *loopback) != "0":
        write_sysctl(net, "0", *loopback)
    known = link_settings(link.settings)
    for family, setting, value in POD_LINK_UP if up else POD_LINK:
        told = known.get((family, setting))
        if told == int(value) or (setting == "disable_ipv6" and not ipv6):
            continue
        segments = family, "conf", link.name, setting
        try:
            if told is None or setting in _LOCKED:
                write_sysctl(net, value, *segments)
            else:
                _write(net, value, segments)
        except Ipv6Missing:
            if ipv6:
                raise


def _write(net: Net, value: str, segments: tuple[str, ...]) -> None:
    """Sets what has another value, and waits for nothing."""
    path = _path(net, segments)
    try:
        file = calls.open_file(path, os.O_WRONLY)
        try:
            calls.write(file, value.encode("ascii"))
        finally:
            calls.close_file(file)
    except OSError as error:
        raise _failed(error, f"write {value!r} to", segments) from None
    net.changed("sysctl write")


def has_ipv6() -> bool:
    """Whether the kernel has IPv6 at all (switched off for single links or not)."""
    return Path(_ROOT, "ipv6").exists()


def _path(net: Net, segments: tuple[str, ...]) -> str:
    if not net.entered:
        raise RuntimeError("this Net's thread is in another namespace: sysctls would miss")
    for segment in segments:
        if segment in ("", ".", "..") or "/" in segment or "\0" in segment:
            raise InvalidValue(
                "use the sysctl", "/".join(segments), f"{segment!r} is no segment", "correct it"
            )
    return "/".join((_ROOT, *segments))


def _failed(error: OSError, what: str, segments: tuple[str, ...]) -> KernelError:
    which = "the sysctl " + "/".join(("net", *segments))
    code = error.errno or 0
    if code != errno.ENOENT:
        return from_errno(code, "", what, which)
    if segments[0] == "ipv6" and not has_ipv6():
        return Ipv6Missing(
            what,
            which,
            "this kernel has no IPv6",
            "use IPv4 only, or start it without ipv6.disable=1",
            errno=code,
        )
    return SysctlMissing(
        what, which, "there is none", "check the link's name and the kernel's version", errno=code
    )
