"""Programs that change the firewall, started ahead: each waits for its text, so that a change costs
no start of a program, which on a slow or busy machine is most of what it takes.

`iptables-restore` reads standard input before it does anything: the legacy one takes its lock at a
table's first line and gives it back at COMMIT, the nft one reads all of the text first. One that
waits holds nothing and, when its maker ends, ends without having done anything.

Source: iptables-restore(8), as of iptables 1.6.2.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress

from hostnet import firewall as fw
from hostnet.errors import KernelError
from hostnet.firewall import Firewall
from hostnet.netlink import Net


class WarmRestores:
    """At most one waiting program for each firewall. All calls in one network namespace, one at a
    time."""

    def __init__(self) -> None:
        self._waiting: dict[Firewall, subprocess.Popen[bytes]] = {}

    @property
    def waiting(self) -> Mapping[Firewall, int]:
        """The process ids."""
        return {firewall: process.pid for firewall, process in self._waiting.items()}

    def prepare(self, firewalls: Iterable[Firewall]) -> None:
        """Has a program wait for each of these, and for no other. One that cannot be started is
        started when there is something to do."""
        wanted = set(firewalls)
        for firewall, process in list(self._waiting.items()):
            if firewall not in wanted or process.poll() is not None:
                _end(self._waiting.pop(firewall))
        for firewall in wanted - self._waiting.keys():
            with suppress(KernelError):
                self._waiting[firewall] = fw.start_restore(firewall)

    def restore(self, net: Net, texts: Mapping[Firewall, str]) -> None:
        """``firewall.restore`` of all texts at once. The programs that waited have ended then."""
        begun = [(each, text, self._begin(each, text)) for each, text in texts.items()]
        for firewall, text, process in begun:
            done = False
            if process is not None:
                with suppress(KernelError):
                    fw.end_restore(firewall, process)
                    net.changed("firewall restore")
                    done = True
            # What kept one that waited, as newer libraries, need not keep a new one.
            if not done:
                fw.restore(net, firewall, text)

    def close(self) -> None:
        self.prepare(())

    def _begin(self, firewall: Firewall, text: str) -> subprocess.Popen[bytes] | None:
        """The program that has its text now; None where none waited."""
        process = self._waiting.pop(firewall, None)
        if process is None:
            return None
        try:
            fw.give(process, text)
        except OSError:
            _end(process)
            return None
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.kill()
