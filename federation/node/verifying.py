"""Real traffic over a path, hop by hop, until one fails: the node itself, the underlay, the tunnel,
the other cluster's gateway, and what goes through in one piece.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Final

from federation.desired import Path
from federation.node.findings import REMEDIES
from federation.node.knowing import Known, wished
from federation.node.prober import Prober, Target
from federation.node.probing import SLOWEST
from hostnet.announce import checksum
from netspace.messages.federation_node import Hop, Verification, VerifiedPath, VerifyPath
from netspace.problems import Problem

PROBES: Final = 5
ENOUGH: Final = 3
"""So many of them must be answered."""
INTERVAL: Final = 0.1
WITHIN: Final = 5.0
"""Seconds for the probes of one path, the search for its MTU included."""
MOST: Final = 64
"""Paths of one cluster that are tried, where no node is named."""
_AT_ONCE: Final = 16
_PING: Final = 1.0
_ECHO: Final = {4: 8, 6: 128}
_ECHOED: Final = {4: 0, 6: 129}


async def verify(known: Known, wanted: VerifyPath, faults: Mapping[str, str]) -> Verification:
    """The hops of the paths that are meant, of `MOST` at most; `faults`: what is wrong with parts
    of this node, by name. `Problem` not-found where there is no such path."""
    if known.view is None:
        raise Problem("unavailable", "nothing is known of any federation yet", do="wait")
    meant = {
        path: target
        for path, target in known.targets.items()
        if (path.federation, path.cluster) == (wanted.federation, wanted.cluster)
        and wanted.node in (None, path.node)
    }
    if not meant:
        which = f"cluster {wanted.cluster} of federation {wanted.federation}"
        raise Problem(
            "not-found",
            f"this node has no path to {wanted.node or 'any node'} of {which}",
            do="see netspace-federation agent status for the paths there are",
        )
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(path: Path) -> VerifiedPath:
        async with turns:
            return await _path(known, path, meant[path], faults)

    some = sorted(meant)[:MOST]
    return Verification(paths=list(await asyncio.gather(*map(one, some))))


async def _path(
    known: Known, path: Path, target: Target, faults: Mapping[str, str]
) -> VerifiedPath:
    hops: list[Hop] = []

    def add(hop: Hop) -> bool:
        hops.append(hop)
        return hop.ok

    if add(_node(known, target, faults)):
        reached = await _underlay(known, path, target)
        tunnel = _tunnel(known, path, target)
        # A tunnel that is up says more than a ping, which may be filtered.
        if add(reached if not tunnel.ok else _passed(reached)) and add(tunnel):
            answered, mtu = await _probes(path, target)
            if add(_gateway(answered, reached, target)):
                add(_mtu(mtu, wished(known).get(path, 0)))
    fails = next((hop.name for hop in hops if not hop.ok), "")
    return VerifiedPath(node=path.node, hops=hops, fails=fails)


def _node(known: Known, target: Target, faults: Mapping[str, str]) -> Hop:
    parts = ("vxlan",) if target.link else ("policies", "routes", "tunnels")
    wrong = [f"{name}: {faults[name]}" for name in (*parts, "firewall") if faults.get(name)]
    if wrong:
        return Hop(name="node", ok=False, found="; ".join(wrong), do=REMEDIES["kernel"])
    return Hop(name="node", ok=True, found="all parts are as they should be")


async def _underlay(known: Known, path: Path, target: Target) -> Hop:
    address = target.remote if not target.link else _address(known, path, target)
    seconds = await asyncio.to_thread(ping, address, target.local) if address else None
    if seconds is not None:
        return Hop(name="underlay", ok=True, found=f"{address} answers in {seconds * 1000:.1f} ms")
    why = f"{address or path.node} does not answer to ping"
    return Hop(name="underlay", ok=False, found=why, do="check routes and firewalls between")


def _passed(hop: Hop) -> Hop:
    if hop.ok:
        return hop
    return Hop(name="underlay", ok=True, found=f"{hop.found}, but the tunnel is up")


def _tunnel(known: Known, path: Path, target: Target) -> Hop:
    if target.link:
        return Hop(name="tunnel", ok=True, found=f"{target.link} is there")
    state = known.paths.get(path)
    if state is not None and state.up:
        return Hop(name="tunnel", ok=True, found=f"up, ordinal {state.ordinal}")
    why = known.whys.get(path, "") or "it is being brought up"
    return Hop(name="tunnel", ok=False, found=why, do=REMEDIES["port"])


async def _probes(path: Path, target: Target) -> tuple[list[bool], int | None]:
    """What became of the probes, and the MTU where it was found."""
    heard: list[bool] = []
    sizes: list[int] = []
    prober = Prober(lambda _, answered: heard.append(answered), lambda _, size: sizes.append(size))
    prober.want({path: replace(target, interval=INTERVAL)})
    running = asyncio.create_task(prober.run())
    try:
        end = monotonic() + WITHIN
        await _until(lambda: len(heard) >= PROBES and any(heard), SLOWEST)
        if any(heard):
            await _until(lambda: len(heard) >= PROBES and bool(sizes), end - monotonic())
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        prober.close()
    return heard, sizes[0] if sizes else None


async def _until(condition: Callable[[], bool], within: float) -> None:
    end = monotonic() + within
    while not condition() and monotonic() < end:
        await asyncio.sleep(INTERVAL / 2)


def _gateway(answered: list[bool], reached: Hop, target: Target) -> Hop:
    good = answered.count(True)
    text = f"{good} of {len(answered)} probes through the tunnel were answered"
    if good >= min(ENOUGH, max(1, len(answered))):
        return Hop(name="gateway", ok=True, found=text)
    way = "the federation's VXLAN port" if target.link else "IP protocol 50"
    do = f"see that its agent runs, and that {way} and the probe port are let in"
    if not reached.ok:
        text, do = f"{text}, and {reached.found}", f"{do}; see the way to it"
    return Hop(name="gateway", ok=False, found=text, do=do)


def _mtu(found: int | None, least: int) -> Hop:
    if not found:
        text = "small packets go through, no size could be measured"
        return Hop(name="mtu", ok=False, found=text, do=REMEDIES["mtu"])
    ok = found >= least
    text = f"{found} bytes go through in one piece" + ("" if ok else f", not {least}")
    return Hop(name="mtu", ok=ok, found=text, do="" if ok else REMEDIES["mtu"])


def _address(known: Known, path: Path, target: Target) -> str:
    """The underlay address of a node on a VXLAN."""
    assert known.view is not None
    versions = {6 if ":" in each.local else 4 for each in known.desired.vxlans}
    for one in known.view.federations:
        for peer in one.peers:
            if (one.federation.name, peer.cluster) == (path.federation, path.cluster) and peer.info:
                for node in peer.info.nodes:
                    for text in node.addresses if node.name == path.node else ():
                        if (6 if ":" in text else 4) in versions:
                            return text
    return ""


def ping(address: str, source: str = "") -> float | None:
    """Seconds until an ICMP echo is answered; None where it is not. RFC 792, RFC 4443."""
    version = 6 if ":" in address else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP
    ident, nonce = os.getpid() & 0xFFFF, os.urandom(16)
    request = struct.pack("!BBHHH", _ECHO[version], 0, 0, ident, 1) + nonce
    if version == 4:  # The kernel sums up ICMPv6.
        total = checksum(request)
        request = request[:2] + struct.pack("!H", total) + request[4:]
    try:
        with socket.socket(family, socket.SOCK_RAW, protocol) as asking:
            if source:
                asking.bind((source, 0))
            began = monotonic()
            asking.sendto(request, (address, 0))
            while (left := began + _PING - monotonic()) > 0:
                asking.settimeout(left)
                data = asking.recv(2048)
                body = data[(data[0] & 15) * 4 :] if version == 4 else data
                if body[:1] == bytes((_ECHOED[version],)) and body.endswith(nonce):
                    return monotonic() - began
    except OSError:
        pass
    return None
