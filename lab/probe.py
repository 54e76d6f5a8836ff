"""What the kernel under this process can do for tests and the demo.

Asked by trying, in a network namespace that is gone at once: a version number
or a list of modules says nothing about what may be loaded and used here.
"""

from __future__ import annotations

import functools
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import programs

_TRY_LINKS = """
ip link add bond0 type bond mode active-backup &&
ip link add link bond0 name bond0.910 type vlan id 910 &&
ip link add link bond0.910 name pod0 type macvlan mode bridge
"""

_TRY_ESP = (
    "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode tunnel "
    f"aead 'rfc4106(gcm(aes))' 0x{'01' * 20} 128"
)


@dataclass(frozen=True)
class Kernel:
    """What can be done directly. Each reason is empty where it can."""

    no_namespaces: str
    no_bonds: str
    no_esp: str = ""

    @property
    def namespaces(self) -> bool:
        return not self.no_namespaces

    @property
    def bonds(self) -> bool:
        return not self.no_bonds

    @property
    def esp(self) -> bool:
        return not self.no_esp


@functools.cache
def kernel() -> Kernel:
    """Probe the kernel under this process; about 20 ms."""
    if os.geteuid() != 0:
        # A user namespace would give the links, but neither mounts, nor
        # sysctls, nor iptables as the parts under test use them.
        return Kernel("not root", "not root", "not root")
    if reason := _try("true"):
        return Kernel(reason, reason, reason)
    # Loaded by the first `ip link add`, the module would put a bond0 of its
    # own into the machine's namespace.
    modprobe = programs.lookup("modprobe")
    if modprobe and not Path("/sys/module/bonding").exists():
        subprocess.run([modprobe, "-q", "bonding", "max_bonds=0"], capture_output=True)
    return Kernel("", _try(_TRY_LINKS), _try(_TRY_ESP))


def _try(script: str) -> str:
    """Run `script` in a throwaway network namespace; return why it failed, or nothing."""
    done = subprocess.run(
        ["unshare", "--net", "--", "sh", "-c", script],
        env=programs.environment() | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
