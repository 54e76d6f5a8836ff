"""What this node can do for federations, found by trying it where it harms nothing: in a network
namespace that is gone at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from federation.node.findings import Finding, finding
from hostnet import Kernel, KernelError, Net, anonymous_netns, has_ipv6
from hostnet.vxlan import Vxlan, ensure_vxlan
from hostnet.xfrm import esp_missing
from netspace.messages.federation import Capability


@dataclass(frozen=True, slots=True)
class Ability:
    """`can`: what it can; why it cannot what is not among it, in words."""

    can: frozenset[Capability]
    no_esp: str = ""
    no_vxlan: str = ""
    no_ipv6: str = ""


async def find(kernel: Kernel) -> Ability:
    """Tries all of it."""
    no_esp = await kernel.run(None, lambda net: esp_missing())
    no_vxlan = await _no_vxlan(kernel)
    no_ipv6 = "" if has_ipv6() else "the kernel has no IPv6"
    missing: dict[Capability, str] = {"ipsec": no_esp, "vxlan": no_vxlan, "ipv6": no_ipv6}
    can = frozenset(name for name, why in missing.items() if not why)
    return Ability(can, no_esp, no_vxlan, no_ipv6)


def findings(ability: Ability, tunnelled: Sequence[str], meshed: Sequence[str]) -> list[Finding]:
    """What is missed by peers that are there: of each kind their names."""
    found = []
    if ability.no_esp and tunnelled:
        found.append(finding("no-esp", "kernel", f"ESP is unavailable: {ability.no_esp}"))
    if ability.no_vxlan and meshed:
        found.append(finding("no-vxlan", "kernel", f"VXLAN is unavailable: {ability.no_vxlan}"))
    return found


async def _no_vxlan(kernel: Kernel) -> str:
    trial = Vxlan("nsf-trial", 1, 4789, ip_address("192.0.2.1"), "02:00:00:00:00:01", 1450)

    def job(net: Net) -> None:
        ensure_vxlan(net, trial)

    try:
        with anonymous_netns() as netns:
            await kernel.run(netns, job)
    except KernelError as error:
        return error.why
    return ""
