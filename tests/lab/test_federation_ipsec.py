"""IPsec between two clusters with real charons: the driver, the policies, what is on the wire."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import Ether

from federation.desired import Tunnel
from federation.node import connections
from federation.node.connections import tunnel_name
from federation.node.ike import Ike
from hostnet import Net, get_link, open_netns, xfrm
from tests.ipsec_world import FEDERATION, RANGES, REQID, WIRE, Node, Stream, World, until
from tests.wires import send_from

pytestmark = pytest.mark.skipif(bool(xfrm.esp_missing()), reason="needs ESP: the lab kernel has it")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as opened:
        made = World(tmp_path_factory.mktemp("ipsec"), opened)
        _join(made)
        yield made


def _join(world: World) -> None:
    """The tunnels of a1 to both gateways, and theirs to it, with the policies of all three."""
    a1, b1, b2 = (world.nodes[name] for name in ("a1", "b1", "b2"))
    for gateway in (b1, b2):
        back = [world.tunnel(gateway, "a1", 1)]
        world.want(gateway, back, [world.accept(gateway, "a")])
        world.apply(gateway, world.policies(gateway, back))
    world.want(a1, _tunnels(world), [world.accept(a1, "b")])
    world.apply(a1, world.policies(a1, _tunnels(world)))
    until(
        lambda: world.up(a1, "b1", "b2") and world.up(b1, "a1") and world.up(b2, "a1"),
        "all tunnels are up",
    )


def _tunnels(world: World) -> list[Tunnel]:
    a1 = world.nodes["a1"]
    return [world.tunnel(a1, "b1", 1), world.tunnel(a1, "b2", 2)]


@pytest.fixture
def joined(world: World) -> World:
    """The same as it was, whatever the test before did."""
    _join(world)
    return world


def _clear(frames: list[Any]) -> list[Any]:
    """Those that show an address of a pod."""
    return [frame for frame in frames if any(map(_pods, _addresses(frame)))]


def _addresses(frame: Any) -> list[str]:
    heads = [frame[kind] for kind in (IP, IPv6) if kind in frame]
    return [address for head in heads for address in (head.src, head.dst)]


def _pods(address: str) -> bool:
    return address.startswith(("10.", "fd01:", "fd02:"))


def _esp(frames: list[Any], source: str, target: str) -> list[Any]:
    return [f for f in frames if ESP in f and (f[IP].src, f[IP].dst) == (source, target)]


def _ask(world: World, asker: Node, target: str, answerer: Node, ordinal: int = 1) -> None:
    """A datagram there and its answer back, pod to pod."""
    own = asker.pod6 if ":" in target else asker.pod
    with world.udp(asker, own, ordinal=ordinal) as ask, world.udp(answerer, target) as answer:
        ask.sendto(b"question", answer.getsockname()[:2])
        said, whence = answer.recvfrom(100)
        answer.sendto(said + b" answered", whence)
        assert ask.recv(100) == b"question answered"


@pytest.mark.parametrize("family", [4, 6])
def test_what_goes_through_has_one_esp_header_and_nothing_is_in_clear(
    joined: World, family: int
) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    with joined.tap("a1") as tap:
        _ask(joined, a1, b1.pod if family == 4 else b1.pod6, b1)
        there, back = (a1.address, b1.address), (b1.address, a1.address)
        frames = tap.frames(5, lambda seen: bool(_esp(seen, *there) and _esp(seen, *back)))
    assert len(_esp(frames, *there)) == 1
    assert len(_esp(frames, *back)) == 1
    assert _clear(frames) == []


def test_tcp_goes_through(joined: World) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]

    def listen(_: Net) -> socket.socket:
        return socket.create_server((b1.pod, 0))

    def connect(_: Net) -> socket.socket:
        return socket.create_connection(server.getsockname(), 10, (a1.pod, 0))

    with joined.within(b1, listen) as server, joined.within(a1, connect) as client:
        client.settimeout(10)
        taken, _ = server.accept()
        with taken:
            client.sendall(b"x" * 20_000)
            client.shutdown(socket.SHUT_WR)
            taken.settimeout(10)
            got = 0
            while piece := taken.recv(1 << 16):
                got += len(piece)
    assert got == 20_000


def test_the_mark_chooses_the_gateway(joined: World) -> None:
    a1, b1, b2 = (joined.nodes[name] for name in ("a1", "b1", "b2"))
    for ordinal, gateway in ((1, b1), (2, b2)):
        with joined.tap("a1") as tap:
            _ask(joined, a1, gateway.pod, gateway, ordinal)
            frames = tap.frames(
                5,
                lambda seen, g=gateway: bool(_esp(seen, a1.address, g.address)),  # type: ignore[misc]
            )
        assert {f[IP].dst for f in frames if ESP in f and f[IP].src == a1.address} == {
            gateway.address
        }


def test_the_overhead_over_ipv4_is_at_most_60_bytes(joined: World) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    sizes = range(100, 108)
    with (
        joined.tap("b1") as tap,
        joined.udp(a1, a1.pod, ordinal=1) as sender,
        joined.udp(b1, b1.pod) as receiver,
    ):
        for size in sizes:
            sender.sendto(bytes(size), receiver.getsockname())
            receiver.recv(200)
        frames = tap.frames(5, lambda seen: len(_esp(seen, a1.address, b1.address)) >= len(sizes))
    outer = [frame[IP].len for frame in _esp(frames, a1.address, b1.address)]
    overheads = [long - (20 + 8 + size) for long, size in zip(outer, sizes, strict=True)]
    print(f"ESP overhead {min(overheads)} to {max(overheads)} bytes")
    assert max(overheads) <= 60


def test_rekeying_under_load_loses_nothing(joined: World) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    name = tunnel_name(_tunnels(joined)[0].path)

    async def rekey() -> None:
        async with Ike(a1.vici) as ike:
            await ike.request("rekey", {"child": name})

    with (
        joined.udp(a1, a1.pod, ordinal=1) as sender,
        joined.udp(b1, b1.pod) as receiver,
        Stream(sender, receiver) as stream,
    ):
        for _ in range(3):
            before = _spis(joined, a1, b1)
            joined.begin(rekey()).result(10)
            until(lambda b=before: bool(_spis(joined, a1, b1) - b), "there is another key")  # type: ignore[misc]
            begun = stream.sent
            until(lambda b=begun: stream.sent > b + 100, "it was used")  # type: ignore[misc]
    print(f"rekeying: {stream.lost} of {stream.sent} lost")
    assert stream.sent > 300
    assert stream.lost == 0


def test_keys_are_renewed_by_packets_before_sequence_numbers_end_and_nothing_is_lost(
    joined: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    monkeypatch.setattr(connections, "_PACKETS", 300)
    joined.want(a1, [], [])
    until(lambda: not joined.states(a1), "no state is left")
    joined.want(a1, _tunnels(joined), [joined.accept(a1, "b")])
    until(lambda: joined.up(a1, "b1", "b2"), "the tunnels count packets")
    first = _spis(joined, a1, b1)
    seen = set(first)

    def renewed() -> bool:
        seen.update(_spis(joined, a1, b1))
        return len(seen) >= 3

    with (
        joined.udp(a1, a1.pod, ordinal=1) as sender,
        joined.udp(b1, b1.pod) as receiver,
        Stream(sender, receiver) as stream,
    ):
        until(renewed, "there were new keys twice")
    assert stream.lost == 0
    assert stream.sent >= 400
    states = [s for s in _xfrm(a1, "state").split("\nsrc ") if f"reqid {REQID} " in s]
    assert states
    assert all("flag" in each and "esn" in each for each in states)


def _spis(world: World, node: Node, to: Node) -> set[int]:
    """Of the states out that packets take."""
    return {
        state.spi
        for state in world.states(node)
        if str(state.target) == to.address and state.spi and not state.mask
    }


def test_another_driver_adopts_the_tunnels_and_no_packet_is_lost(joined: World) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    before = _spis(joined, a1, b1)
    with (
        joined.udp(a1, a1.pod, ordinal=1) as sender,
        joined.udp(b1, b1.pod) as receiver,
        Stream(sender, receiver) as stream,
    ):
        joined.stop_driver(a1)
        a1.told.clear()
        joined.want(a1, _tunnels(joined), [joined.accept(a1, "b")])
        until(lambda: joined.up(a1, "b1", "b2"), "the tunnels are adopted")
        begun = stream.sent
        until(lambda: stream.sent > begun + 100, "they are used")
    assert stream.lost == 0
    assert _spis(joined, a1, b1) == before
    assert {state.state for _, state in a1.told} == {"up"}


def test_a_killed_charon_comes_back_and_no_packet_is_lost(joined: World) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    before = _spis(joined, a1, b1)
    a1.told.clear()
    with (
        joined.udp(a1, a1.pod, ordinal=1) as sender,
        joined.udp(b1, b1.pod) as receiver,
        Stream(sender, receiver) as stream,
    ):
        joined.kill_charon(a1)
        joined.start_charon(a1)
        until(lambda: bool(_spis(joined, a1, b1) - before), "there is a new tunnel")
        begun = stream.sent
        until(lambda: stream.sent > begun + 100, "it was used")
    print(f"charon killed: {stream.lost} of {stream.sent} lost")
    assert stream.lost == 0
    assert a1.told == []


def test_a_gateway_whose_charon_was_killed_is_reached_again(joined: World) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    before = _spis(joined, a1, b1)
    with (
        joined.udp(a1, a1.pod, ordinal=1) as sender,
        joined.udp(b1, b1.pod) as receiver,
        Stream(sender, receiver) as stream,
    ):
        joined.kill_charon(b1)
        joined.start_charon(b1)
        until(lambda: bool(_spis(joined, a1, b1) - before), "there is a new tunnel", 30)
        until(lambda: joined.up(a1, "b1"), "it is up")
    print(f"gateway's charon killed: {stream.lost} of {stream.sent} lost")
    _ask(joined, a1, b1.pod, b1)


def test_a_tunnel_whose_states_somebody_deleted_is_brought_up_again(joined: World) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    before = _spis(joined, a1, b1)
    _xfrm(a1, "state flush")
    assert a1.driver is not None
    joined.call(a1.driver.check)
    until(lambda: bool(_spis(joined, a1, b1) - before), "there is a new tunnel")
    until(lambda: joined.up(a1, "b1", "b2"), "they are up")
    for gateway in (b1, joined.nodes["b2"]):
        kept = _spis(joined, gateway, a1)
        assert gateway.driver is not None
        joined.call(lambda g=gateway: g.driver.renew(joined.tunnel(g, "a1", 1).path))  # type: ignore[misc]
        until(lambda g=gateway, k=kept: bool(_spis(joined, g, a1) - k), "the way back is new")  # type: ignore[misc]
    _ask(joined, a1, b1.pod, b1)


def test_tunnels_stay_while_the_node_has_no_certificate_at_hand(joined: World) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    before = _spis(joined, a1, b1)
    joined.stop_driver(a1)
    driver = joined.start_driver(a1)
    wanted, accepts = _tunnels(joined), [joined.accept(a1, "b")]
    joined.call(lambda: driver.want(wanted, accepts, []))
    assert "no certificate in the federation one yet" in " ".join(driver.faults)
    joined.want(a1, wanted, accepts)
    until(lambda: joined.up(a1, "b1", "b2"), "the tunnels are adopted")
    joined.call(lambda: driver.want(wanted, accepts, []))
    assert driver.faults == []
    assert _spis(joined, a1, b1) == before


def test_without_a_tunnel_nothing_leaves_in_clear(joined: World) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    nowhere = Tunnel(_tunnels(joined)[0].path, a1.address, "192.0.2.99", 3, REQID, True)
    with joined.tap("a1") as tap, joined.udp(b1, b1.pod) as receiver:
        for tunnels in ([], [nowhere]):
            joined.apply(a1, joined.policies(a1, tunnels))
            for ordinal in (0, 1, 3):
                with joined.udp(a1, a1.pod, ordinal=ordinal) as sender:
                    try:
                        sender.sendto(b"secret", receiver.getsockname())
                    except OSError:
                        continue  # Blocked at once.
        receiver.settimeout(0.3)
        with pytest.raises(TimeoutError):
            receiver.recv(100)
        assert _clear(tap.frames(0.2, lambda _: False)) == []


def test_clear_text_from_a_federated_source_is_dropped_on_arrival(joined: World) -> None:
    a1 = joined.nodes["a1"]
    mac = joined.within(a1, lambda net: get_link(net, "eth0").mac)
    with joined.udp(a1, a1.pod) as receiver, open_netns(f"/run/netns/{WIRE}") as wire:
        receiver.settimeout(0.5)
        port = receiver.getsockname()[1]

        def frame(source: str) -> bytes:
            packet = (
                Ether(src="02:00:00:00:00:01", dst=mac)
                / IP(src=source, dst=a1.pod)
                / UDP(sport=9, dport=port)
            )
            return bytes(packet / source.encode())

        send_from(wire, "a1", [frame("10.2.0.1"), frame("192.0.2.77")])
        assert receiver.recv(100) == b"192.0.2.77"
        with pytest.raises(TimeoutError):
            receiver.recv(100)


def test_other_programs_policies_and_states_are_left_alone(joined: World) -> None:
    a1 = joined.nodes["a1"]
    theirs = (
        "policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out priority 100 action block",
        "policy add src 10.8.0.0/16 dst 10.9.0.0/16 dir in priority 1314000000"
        " tmpl src 192.0.2.9 dst 192.0.2.1 proto esp reqid 9 mode tunnel",
        f"policy add src 0.0.0.0/0 dst {RANGES['b'][0]} dir fwd priority 7",
        "state add src 192.0.2.1 dst 192.0.2.9 proto esp spi 0x9 reqid 9 mode tunnel"
        f" aead rfc4106(gcm(aes)) 0x{'11' * 20} 128",
    )
    _xfrm(a1, *theirs)
    try:
        before = _foreign(a1)
        assert len(before) == 4
        joined.apply(a1, [])
        joined.want(a1, [], [])
        assert _foreign(a1) == before
        _join(joined)
        assert _foreign(a1) == before
    finally:
        names = [line.split(" priority")[0].split(" reqid")[0] for line in theirs]
        _xfrm(a1, *(name.replace(" add ", " del ", 1) for name in names))


def _xfrm(node: Node, *lines: str) -> str:
    said = ""
    for line in lines:
        command = ["ip", "-n", node.netns, "xfrm", *line.split()]
        said += subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return said


def _foreign(node: Node) -> list[str]:
    listed = _xfrm(node, "policy", "state").replace("\n\t", " ").splitlines()
    marks = ("priority 100 ", "priority 1314000000 ", "priority 7 ", "spi 0x00000009")
    known = [line for line in listed if any(mark in line for mark in marks)]
    return sorted(line.split(" lifetime ")[0] for line in known)


def test_a_policy_that_is_somebody_elses_is_not_replaced(joined: World) -> None:
    a1 = joined.nodes["a1"]
    joined.apply(a1, [])
    _xfrm(a1, f"policy add src 0.0.0.0/0 dst {RANGES['b'][0]} dir out priority 100")
    try:
        result = joined.apply(a1, joined.policies(a1, _tunnels(joined)))
        assert len(result.faults) == 1
        assert RANGES["b"][0] in result.faults[0]
        assert "another program" in result.faults[0]
        assert "priority 100 " in _xfrm(a1, "policy").replace("\n", " ")
    finally:
        _xfrm(a1, f"policy del src 0.0.0.0/0 dst {RANGES['b'][0]} dir out")


def test_a_certificate_of_another_authority_brings_no_tunnel_up(joined: World) -> None:
    a2 = joined.nodes["a2"]
    forged = joined.membership("a", "a2", a2.address, signer="c")
    joined.want(a2, [joined.tunnel(a2, "b1", 1)], [], forged)
    until(lambda: _why(joined, a2) != "", "there is a reason")
    assert "authentication failed" in _why(joined, a2)
    assert not _spis(joined, a2, joined.nodes["b1"])


def test_a_gateway_of_another_authority_is_refused(joined: World) -> None:
    a2 = joined.nodes["a2"]
    mine = joined.memberships["a2"]
    misled = type(mine)(
        FEDERATION, "a2", mine.key, mine.certificate, mine.root,
        {**mine.members, "b": mine.members["c"]}, mine.mask,
    )  # fmt: skip
    joined.want(a2, [], [])
    joined.want(a2, [joined.tunnel(a2, "b1", 1)], [], misled)
    until(lambda: "is not b's" in _why(joined, a2), "the reason is told")
    assert not _spis(joined, a2, joined.nodes["b1"])


def test_an_expired_certificate_brings_no_tunnel_up_and_the_renewed_one_does(joined: World) -> None:
    a2 = joined.nodes["a2"]
    joined.want(a2, [], [])
    old = joined.membership("a", "a2", a2.address, days=-1)
    joined.want(a2, [joined.tunnel(a2, "b1", 1)], [], old)
    until(lambda: "authentication failed" in _why(joined, a2), "there is a reason")
    joined.want(a2, [joined.tunnel(a2, "b1", 1)], [])
    until(lambda: joined.up(a2, "b1"), "the tunnel is up")


def test_a_renewed_certificate_breaks_no_tunnel(joined: World) -> None:
    a1, b1 = joined.nodes["a1"], joined.nodes["b1"]
    before = _spis(joined, a1, b1)
    renewed = joined.membership("a", "a1", a1.address)
    a1.told.clear()
    joined.want(a1, _tunnels(joined), [joined.accept(a1, "b")], renewed)
    _ask(joined, a1, b1.pod, b1)
    assert _spis(joined, a1, b1) == before
    assert a1.told == []


def test_through_nat_packets_go_in_udp(joined: World) -> None:
    a2, b1 = joined.nodes["a2"], joined.nodes["b1"]
    wanted = [joined.tunnel(a2, "b1", 1)]
    joined.want(a2, wanted, [])
    joined.apply(a2, joined.policies(a2, wanted))
    until(lambda: joined.up(a2, "b1"), "the tunnel is up")
    with (
        joined.tap("nat") as tap,
        joined.udp(a2, a2.pod, ordinal=1) as sender,
        joined.udp(b1, b1.pod) as receiver,
    ):
        sender.sendto(bytes(100), receiver.getsockname())
        assert receiver.recv(200) == bytes(100)
        frames = tap.frames(3, lambda seen: bool(_encapsulated(seen)))
    assert [frame[IP].len - 128 for frame in _encapsulated(frames)] == [64]
    assert _clear(frames) == []


def _encapsulated(frames: list[Any]) -> list[Any]:
    return [
        f for f in frames
        if UDP in f and f[UDP].dport == 4500 and f[IP].src == "192.0.2.2" and f[IP].len == 192
    ]  # fmt: skip


def _why(world: World, node: Node) -> str:
    driver = node.driver
    assert driver is not None
    return world.call(lambda: next(iter(driver.states.values())).why if driver.states else "")


def test_what_is_not_wanted_any_more_is_ended_and_nothing_else(joined: World) -> None:
    a1, b1, b2 = (joined.nodes[name] for name in ("a1", "b1", "b2"))
    kept = _spis(joined, a1, b1)
    joined.want(a1, _tunnels(joined)[:1], [joined.accept(a1, "b")])
    until(lambda: not _spis(joined, a1, b2), "the tunnel to b2 is gone")
    assert _spis(joined, a1, b1) == kept
    joined.want(a1, [], [])
    until(lambda: not joined.states(a1), "no state is left")
    joined.apply(a1, [])
    listed = joined.within(a1, xfrm.list_policies)
    assert listed == []
