"""What can go wrong between this package and the kernel, as types.

Every error says what was tried, on which object, why it failed and what to do about it, in
one line for a person; its class and ``errno`` are for programs. ``from_errno`` is the one
place where a number from the kernel becomes a type.
"""

from __future__ import annotations

import errno as codes
import os
from functools import partial
from typing import Any


class KernelError(Exception):
    """The kernel refused something, or is not in the state that was asked for.

    ``what``: the action, as in "add the address 10.0.0.5/24 to"; ``which``: the object;
    ``why``: the reason; ``remedy``: what to do; ``errno``: the kernel's number, if it said one.
    """

    def __init__(
        self, what: str, which: str, why: str, remedy: str, *, errno: int | None = None
    ) -> None:
        super().__init__(f"cannot {what} {which}: {why}; {remedy}")
        self.what = what
        self.which = which
        self.why = why
        self.remedy = remedy
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), errno=self.errno), (
            self.what,
            self.which,
            self.why,
            self.remedy,
        )


class NetnsError(KernelError):
    """A network namespace cannot be used."""


class NetnsMissing(NetnsError):
    """Nothing is at the path of the namespace (any more)."""


class NotANetns(NetnsError):
    """What is at the path is not a network namespace."""


class OwnNetns(NetnsError):
    """The path is the network namespace this process itself is in."""


class InvalidName(KernelError):
    """A link name that the kernel would refuse or take for a pattern."""


class InvalidValue(KernelError):
    """A value that is wrong whatever the state of the kernel is."""


class InvalidMac(InvalidValue):
    """A hardware address that is malformed, zero or multicast."""


class InvalidMtu(InvalidValue):
    """An MTU that is negative, too small, or above what the parent link carries."""


class LinkMissing(KernelError):
    """There is no link of this name or index."""


class ParentMissing(LinkMissing):
    """The link that another one should lie on does not exist."""


class NameTaken(KernelError):
    """Another link has the name already."""


class NotThatVlan(NameTaken):
    """A link has the name of the VLAN interface but is another thing."""


class VlanIdTaken(KernelError):
    """The parent has an interface for this VLAN already, under another name."""


class CardMissing(LinkMissing):
    """A network card of a bond does not exist."""


class CardTaken(KernelError):
    """A network card belongs to another bond, bridge or other master."""


class CardHasAddresses(KernelError):
    """A network card carries addresses of the node, which enslaving would cut off."""


class NotABond(NameTaken):
    """A link has the bond's name but is no bond."""


class BondOptionFixed(KernelError):
    """An option of an existing bond differs and cannot be changed while it is in use."""


class AddressInUse(KernelError):
    """The hardware or IP address is in use on the same parent or link."""


class AddressConflict(KernelError):
    """Somebody on the link answers for the IP address already."""


class GatewaySilent(KernelError):
    """A gateway does not answer on the link."""


class GatewayUnreachable(KernelError):
    """A route's gateway lies in no network of the link."""


class RouteConflict(KernelError):
    """Another route to the same destination is there."""


class LinkDown(KernelError):
    """The operation needs a link that is up."""


class NotThere(KernelError):
    """The object to change or to delete does not exist."""


class AlreadyThere(KernelError):
    """An object with this identity exists and is not the one wanted."""


class NotPermitted(KernelError):
    """The process lacks the privilege, or the file system is read-only."""


class NotSupported(KernelError):
    """The kernel lacks the feature or its module."""


class Ipv6Missing(NotSupported):
    """The kernel has no IPv6."""


class SysctlMissing(NotSupported):
    """There is no such kernel setting."""


class Busy(KernelError):
    """The kernel is using the object; trying again later may help."""


class OutOfMemory(KernelError):
    """The kernel has no memory, buffer or open file left for it; trying again may help."""


class Refused(KernelError):
    """The kernel refused the request for another reason, which ``why`` gives."""


_BY_ERRNO: dict[int, tuple[type[KernelError], str]] = {
    codes.EPERM: (NotPermitted, "run as root, or with CAP_NET_ADMIN in this namespace"),
    codes.EACCES: (NotPermitted, "run as root, or with CAP_NET_ADMIN in this namespace"),
    codes.EROFS: (NotPermitted, "mount /proc/sys writable for this process"),
    codes.ENODEV: (LinkMissing, "check the name; the link may just have been deleted"),
    codes.ENXIO: (LinkMissing, "check the name; the link may just have been deleted"),
    codes.EEXIST: (AlreadyThere, "delete the other one, or choose another name"),
    codes.EBUSY: (Busy, "see what uses it, or try again later"),
    codes.EAGAIN: (Busy, "try again later"),
    codes.EADDRINUSE: (AddressInUse, "use another address, or delete the link that has it"),
    codes.ENETUNREACH: (GatewayUnreachable, "give an address in the gateway's network first"),
    codes.EHOSTUNREACH: (GatewayUnreachable, "give an address in the gateway's network first"),
    codes.ENETDOWN: (LinkDown, "set the link (and its parent) up first"),
    codes.ESRCH: (NotThere, "nothing of the kind is there"),
    codes.ENOENT: (NotThere, "nothing of the kind is there"),
    codes.EADDRNOTAVAIL: (NotThere, "check the address"),
    codes.EOPNOTSUPP: (NotSupported, "load the kernel module, or use a kernel that has it"),
    codes.EAFNOSUPPORT: (NotSupported, "load the kernel module, or use a kernel that has it"),
    codes.EMFILE: (OutOfMemory, "raise the limit of open files (LimitNOFILE) and try again"),
    codes.ENFILE: (OutOfMemory, "raise fs.file-max and try again"),
    codes.ENOMEM: (OutOfMemory, "free memory and try again"),
    codes.ENOBUFS: (OutOfMemory, "try again"),
}


def from_errno(code: int, said: str, what: str, which: str) -> KernelError:
    """The typed error for one number of the kernel; ``said`` is its own text, if it gave one."""
    kind, remedy = _BY_ERRNO.get(code, (Refused, "check the values against the kernel's text"))
    why = os.strerror(code)
    if said and said != why:
        why = f"{said} ({why})"
    return kind(what, which, why, remedy, errno=code)
