"""Network namespaces: opening one safely, entering it, making and deleting named ones.

A namespace is held as an open file, never as a path: a path may be mounted over or vanish
while it is in use. Sources: namespaces(7), ioctl_ns(2), setns(2), network_namespaces(7).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from hostnet import calls
from hostnet.errors import (
    KernelError,
    NetnsError,
    NetnsMissing,
    NotANetns,
    NotPermitted,
    OwnNetns,
    from_errno,
)

CLONE_NEWNET = 0x40000000
_NSFS_MAGIC = 0x6E736673
_NS_GET_NSTYPE = 0xB703
_MS_BIND = 0x1000
_MNT_DETACH = 2
_OWN = Path("/proc/self/ns/net")

_libc = ctypes.CDLL(None, use_errno=True)


class Netns:
    """One open network namespace; a context manager that closes the file.

    ``fd``: the open file (close-on-exec); ``path``: where it was opened, for messages only;
    ``identity``: (device, inode), equal exactly for handles of the same namespace.
    """

    __slots__ = ("fd", "identity", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)

    def enter(self) -> None:
        """Move the calling thread, and only it, into the namespace (setns(2))."""
        if self.fd < 0:
            raise NetnsMissing(
                "enter the network namespace", self.path, "its handle is closed", "open it again"
            )
        try:
            calls.enter(self.fd, CLONE_NEWNET)
        except OSError as error:
            code = error.errno or 0
            raise from_errno(code, "", "enter the network namespace", self.path) from None

    def close(self) -> None:
        """Close the file; the namespace lives on while anything else holds it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Netns:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Netns({self.path!r}, inode {self.identity[1]})"


def open_netns(path: str, *, allow_own: bool = False) -> Netns:
    """Open the network namespace at ``path`` (/var/run/netns/NAME, /proc/PID/ns/net).

    Errors: ``NetnsMissing``; ``NotANetns`` (an ordinary file, a namespace of another type);
    ``OwnNetns`` when it is this process's own, unless ``allow_own``; ``NotPermitted``.
    """
    what, which = "open the network namespace", repr(path)
    if not path or "\0" in path:
        raise NetnsMissing(what, which, "the path is empty or malformed", "give the path of one")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise _opening_failed(error, what, which) from None
    try:
        if not _is_netns(fd):
            raise NotANetns(
                what, which, "it is not a network namespace", "give one that a runtime made"
            )
        netns = Netns(fd, path)
        own = _OWN.stat()
        if not allow_own and netns.identity == (own.st_dev, own.st_ino):
            raise OwnNetns(
                what,
                which,
                "it is the one this process is in",
                "give the pod's; host-network pods need no interface",
            )
    except BaseException:
        os.close(fd)
        raise
    return netns


def anonymous_netns() -> Netns:
    """Make a new network namespace that lives as long as its handle or anything in it."""
    return _in_new_netns(lambda: Netns(_open_current(), "(anonymous)"))


def create_netns(path: str) -> Netns:
    """Make a new network namespace and keep it at ``path``, as ``ip netns add`` does.

    The parent folder is made where it is missing. Errors: ``NetnsError`` when the path is
    taken, ``NotPermitted``.
    """
    what, which = "make the network namespace", repr(path)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except FileExistsError:
        raise NetnsError(what, which, "the path is taken", "delete it first") from None
    except OSError as error:
        raise _opening_failed(error, what, which) from None

    def keep() -> Netns:
        source = f"/proc/self/task/{threading.get_native_id()}/ns/net".encode()
        _checked(_libc.mount(source, os.fsencode(path), None, _MS_BIND, None), what, which)
        return Netns(_open_current(), path)

    try:
        return _in_new_netns(keep)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


def delete_netns(path: str) -> bool:
    """Take the name at ``path`` away; False when there was none.

    The namespace itself ends when its last process, socket and handle are gone.
    """
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOENT):
        raise from_errno(code, "", "delete the network namespace", repr(path))
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return False
    return True


def _is_netns(fd: int) -> bool:
    # The file system is asked first: the ioctl's number may mean anything to another file.
    try:
        if calls.file_system(fd) != _NSFS_MAGIC:
            return False
    except OSError as error:
        raise from_errno(error.errno or 0, "", "examine", f"file {fd}") from None
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def _in_new_netns(make: Callable[[], Netns]) -> Netns:
    made: list[Netns] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            _checked(_libc.unshare(CLONE_NEWNET), "make", "a network namespace")
            made.append(make())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="netns-make")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _open_current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _checked(result: int, what: str, which: str) -> None:
    if result != 0:
        raise from_errno(ctypes.get_errno(), "", what, which)


def _opening_failed(error: OSError, what: str, which: str) -> KernelError:
    code = error.errno or 0
    why = os.strerror(code)
    if code in (errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ELOOP, errno.ENAMETOOLONG):
        return NetnsMissing(what, which, why, "it is gone, or the path is wrong", errno=code)
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NotPermitted(what, which, why, "run as root", errno=code)
    if code in (errno.EISDIR, errno.ENXIO, errno.ENODEV):
        return NotANetns(what, which, why, "give a network namespace", errno=code)
    # It may well be there: no room for an open file says nothing of it.
    return from_errno(code, "", what, which)
