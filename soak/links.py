"""Network namespaces of a soak's own, and the cables between them.

    s1 ─┐           ┌─ etcd-a
    s2 ─┼─ switch ──┼─ etcd-b
    s3 ─┘     │     └─ etcd-c
           clients

Every server, every member and the clients have a namespace with one card, `eth0`; the switch is a
bridge in a namespace of its own, and nothing leads to the machine's network. A cable is pulled at
the switch, so that what is on its way is lost and nobody is told.

The namespaces have no names: the kernel takes them away, with all that is in them, once this
process has closed them or is no more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from hostnet.errors import KernelError
from hostnet.netns import Netns, anonymous_netns, open_netns
from lab import probe, programs
from lab.topology import TopologyError, batch, ip

SWITCH = "switch"
CLIENTS = "clients"
SUBNET = "10.79.0."


class Links:
    """The namespaces of one soak, made by `laid`; `slow` says whether links can be made slow."""

    def __init__(self, names: Sequence[str]) -> None:
        self.slow = False
        self._addresses = {name: f"{SUBNET}{at}" for at, name in enumerate(names, 1)}
        self._opened: dict[str, Netns] = {}

    def address(self, name: str) -> str:
        """Where the others reach a namespace."""
        return self._addresses[name]

    def name_of(self, address: str) -> str:
        """Whose address it is."""
        return next((n for n, each in self._addresses.items() if each == address), "?")

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """The calling thread is in a namespace, and so is what it makes and starts. Never hold it
        while waiting in a coroutine that others run beside."""
        with open_netns("/proc/thread-self/ns/net", allow_own=True) as before:
            self._opened[name].enter()
            try:
                yield
            finally:
                before.enter()

    def pull(self, name: str) -> None:
        """Pulls the cable of a namespace. Raises `TopologyError`, as `plug` and `delay` do."""
        with self.inside(SWITCH):
            ip([f"link set {_port(name)} down"])

    def plug(self, *names: str) -> None:
        """Puts it back; by default all of them."""
        chosen = names or tuple(self._addresses)
        with self.inside(SWITCH):
            ip(f"link set {_port(name)} up" for name in chosen)

    def delay(self, name: str, milliseconds: int, loss: int) -> None:
        """What goes to a namespace comes late, and some of it never; `loss` in per cent."""
        what = f"delay {milliseconds}ms loss {loss}%"
        with self.inside(SWITCH):
            batch("tc", [f"qdisc replace dev {_port(name)} root netem {what}"], None)

    def quicken(self, *names: str) -> None:
        """Undoes `delay` where there is any; by default everywhere."""
        for name in names or self._addresses:
            with contextlib.suppress(TopologyError), self.inside(SWITCH):
                batch("tc", [f"qdisc del dev {_port(name)} root"], None)

    def make(self) -> None:
        """Lays everything. Raises `TopologyError`, `KernelError`."""
        for name in (SWITCH, *self._addresses):
            self._opened[name] = anonymous_netns()
        lines = ["link add sw0 type bridge mcast_snooping 0 forward_delay 0", "link set sw0 up"]
        for name in self._addresses:
            there = f"/proc/{os.getpid()}/fd/{self._opened[name].fd}"
            lines += [
                f"link add {_port(name)} type veth peer name eth0 netns {there}",
                f"link set {_port(name)} master sw0 up",
            ]
        with self.inside(SWITCH):
            ip(lines)
        for name, address in self._addresses.items():
            with self.inside(name):
                ip(["link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up"])
        with contextlib.suppress(TopologyError):
            self.delay(CLIENTS, 1, 0)
            self.quicken(CLIENTS)
            self.slow = True

    def close(self) -> None:
        for opened in self._opened.values():
            opened.close()


def _port(name: str) -> str:
    """The switch's end of a cable."""
    return f"to-{name}"


@contextlib.contextmanager
def laid(names: Sequence[str]) -> Iterator[tuple[Links | None, str]]:
    """The namespaces, and where there can be none the reason. They are gone after it, whatever
    happens."""
    reason = probe.kernel().no_namespaces
    if reason or programs.lookup("ip") is None:
        yield None, reason or "no program ip"
        return
    links = Links(names)
    with contextlib.closing(links):
        try:
            links.make()
        except (TopologyError, KernelError) as error:
            links.close()
            yield None, str(error)
            return
        yield links, ""
