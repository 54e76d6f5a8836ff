"""A federation's chains in a real firewall, beside those of other programs."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

import hostnet
from federation.desired import Accept, DesiredNode, Exposure, Flows
from federation.node.firewall import SETTLE, FirewallDriver, probe
from federation.plan.hashing import bucket
from hostnet import Kernel, KernelError, Net, firewall, run_in
from hostnet.firewall import find_firewall
from hostnet.sets import AddressSet, ensure_sets, read_set, set_names
from tests.federated import HERE, LOCAL, REMOTE, THERE, Rig, foreign, rig
from tests.wires import Tap, send_from

MASK = 0x00F00000
DROPS = (
    "*filter\n-P FORWARD DROP\n:THEIRS - [0:0]\n"
    "-A THEIRS -m conntrack --ctstate INVALID -j DROP\n-I FORWARD 1 -j THEIRS\nCOMMIT\n"
    "*nat\n-A POSTROUTING -s {} -j MASQUERADE\nCOMMIT\n"
)
WANTED = DesiredNode(
    mark=MASK,
    local=LOCAL,
    remote=REMOTE,
    flows=(Flows("f", "b", LOCAL, REMOTE, (1, 2) * 32),),
    exposures=(Exposure("f", "b", remote=REMOTE),),
    mss=((REMOTE[0], 1300), (REMOTE[1], 1280)),
    peers=(THERE[0], THERE[1]),
    ports=(500, 4500),
    accepts=(Accept("f", "b", "", "10.2.0.1", 1),),
)


@pytest.fixture
def made() -> Iterator[Rig]:
    with rig() as found:
        yield found


@pytest.fixture(params=["nft", "legacy"])
def back_end(made: Rig, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(firewall, "BACK_ENDS", (request.param,))
    try:
        run_in(made.node, lambda net: find_firewall(net, 4))
    except KernelError as error:
        pytest.skip(str(error))
    return str(request.param)


def listening(there: Rig, port: int, kind: int = socket.SOCK_STREAM) -> list[socket.socket]:
    def job(_: Net) -> list[socket.socket]:
        found = []
        for family, host in ((socket.AF_INET, THERE[0]), (socket.AF_INET6, THERE[1])):
            made = socket.socket(family, kind)
            made.settimeout(2)
            made.bind((host, port))
            if kind == socket.SOCK_STREAM:
                made.listen()
            found.append(made)
        return found

    return run_in(there.there, job)


def talks(made: Rig, port: int = 8080, wait: float = 2.0) -> list[str]:
    """Whom the other cluster's pod sees, of each family, or "refused"; empty where nothing comes
    through."""
    seen: list[str] = []
    for address, server in zip(THERE, listening(made, port), strict=True):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def connect(_: Net, to: str = address, kind: int = family) -> socket.socket | None:
            client = socket.socket(kind)
            client.settimeout(wait)
            try:
                client.connect((to, port))
            except OSError as error:
                client.close()
                if isinstance(error, ConnectionRefusedError):
                    seen.append("refused")
                return None
            return client

        client = run_in(made.here, connect)
        with server:
            if client is None:
                continue
            with client, server.accept()[0] as accepted:
                seen.append(accepted.getpeername()[0])
    return seen


def test_what_the_kernel_takes_is_what_is_compared(made: Rig, back_end: str) -> None:
    """Both back ends and both ways, with sets and without: a second look changes nothing."""
    exposure = Exposure("f", "b", (("tcp", 80, 90), ("udp", 53, 53)), (("sctp", 1, 9),), REMOTE)
    wanted = replace(WANTED, exposures=(exposure,))
    driver = FirewallDriver(Kernel())
    assert made.apply(driver, wanted)
    assert made.apply(driver, wanted) == ()
    assert made.inside(lambda: driver.faults(wanted)) == []
    found = run_in(made.node, probe)
    assert not found.missing and found.firewalls[4].back_end == back_end
    other = FirewallDriver(Kernel())
    other._ability = replace(found, able=replace(found.able, sets=False))
    assert made.apply(other, wanted)
    assert made.apply(other, wanted) == ()
    assert made.apply(driver, DesiredNode())
    assert not any("NETSPACE" in chain for t in made.rules().values() for chain in t)
    assert run_in(made.node, set_names) == []


def test_drops_and_translation_of_another_cni_do_not_break_federated_traffic(made: Rig) -> None:
    made.feed(DROPS.format(LOCAL[0]))
    made.feed(DROPS.format(LOCAL[1]), six=True)
    assert talks(made, wait=0.3) == []
    made.apply(FirewallDriver(Kernel()), WANTED)
    assert talks(made) == list(HERE)


def test_an_answer_whose_question_went_by_another_gateway_passes(made: Rig) -> None:
    """Connection tracking would call it invalid, and others drop what is, wherever they look."""
    made.feed(DROPS.format(LOCAL[0]))
    made.feed("*mangle\n-A POSTROUTING -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n")
    made.apply(FirewallDriver(Kernel()), WANTED)
    mac = run_in(made.node, lambda net: hostnet.get_link(net, "far").mac)
    answer = IP(src=THERE[0], dst=HERE[0]) / TCP(sport=80, dport=4000, flags="SA")
    with Tap(made.here, "eth0") as tap:
        send_from(made.there, "eth0", [bytes(Ether(dst=mac, type=0x0800) / answer)])
        frames = tap.frames(2, lambda seen: any(TCP in frame for frame in seen))
    assert any(TCP in frame and frame[TCP].flags == "SA" for frame in frames)


def test_no_clamp_is_missing_on_the_syn_ack(made: Rig) -> None:
    made.apply(FirewallDriver(Kernel()), WANTED)
    with Tap(made.there, "eth0") as far, Tap(made.here, "eth0") as near:
        assert talks(made) == list(HERE)
        opening = _segments(far.frames(1, lambda seen: len(_segments(seen, "S")) >= 2), "S")
        answering = _segments(near.frames(1, lambda seen: len(_segments(seen, "SA")) >= 2), "SA")
    assert opening == {IP: 1300, IPv6: 1280}
    assert answering == {IP: 1300, IPv6: 1280}


def _segments(frames: list[Ether], flags: str) -> dict[type, int]:
    found = {}
    for frame in frames:
        if TCP in frame and frame[TCP].flags == flags:
            found[IP if IP in frame else IPv6] = dict(frame[TCP].options).get("MSS", 0)
    return found


def test_a_flow_gets_the_mark_of_its_bucket_and_foreign_bits_stay(made: Rig) -> None:
    made.apply(FirewallDriver(Kernel()), WANTED)
    theirs = "-A PREROUTING -j MARK --set-xmark 0x7/0xff"
    counting = "".join(
        f"-A FORWARD -p udp -m udp --dport {port} -m mark --mark {mark:#x} -j DROP\n"
        for port in range(5000, 5016)
        for mark in (0x100007, 0x200007)
    )
    made.feed(f"*mangle\n{theirs}\nCOMMIT\n*mangle\n{counting}COMMIT\n")
    mac = run_in(made.node, lambda net: hostnet.get_link(net, "near").mac)
    source, target = HERE[0], THERE[0]
    frames = [
        bytes(
            Ether(dst=mac, type=0x0800)
            / IP(src=source, dst=target)
            / UDP(sport=4000, dport=port)
            / b"x"
        )
        for port in range(5000, 5016)
    ]
    send_from(made.here, "eth0", frames)
    counted = _counted(made)
    for port in range(5000, 5016):
        one = bucket(ip_address(source), ip_address(target), 17, 4000, port)
        assert counted[port] == (0x100007, 0x200007)[one % 2], port


def _counted(made: Rig) -> dict[int, int]:
    """By port the mark whose rule counted a packet."""

    def job(net: Net) -> str:
        save = find_firewall(net, 4).save
        return subprocess.run([save, "-c", "-t", "mangle"], capture_output=True, text=True).stdout

    found = {}
    pattern = re.compile(r"\[(\d+):\d+\] -A FORWARD .*--dport (\d+) -m mark --mark (0x\w+)")
    for counter, port, mark in pattern.findall(run_in(made.node, job)):
        if int(counter):
            found[int(port)] = int(mark, 16)
    return found


def test_what_is_not_exposed_is_refused_at_once(made: Rig) -> None:
    closed = (Exposure("f", "b", (("tcp", 80, 80),), (), LOCAL),)
    # Seen from the other side: the far pod is ours, and the near one theirs.
    wanted = replace(WANTED, local=REMOTE, remote=LOCAL, exposures=closed, flows=(), mss=())
    made.apply(FirewallDriver(Kernel()), wanted)
    assert talks(made, 80) == list(HERE)
    assert talks(made, 81) == ["refused", "refused"]


def test_hooked_again_after_another_program_rewrote_the_table(made: Rig, back_end: str) -> None:
    driver = FirewallDriver(Kernel())
    settle(made, driver)
    before = made.rules()
    for table, chain, built_in in (
        ("filter", "NETSPACE-FED", "FORWARD"),
        ("mangle", "NETSPACE-FED", "PREROUTING"),
        ("raw", "NETSPACE-FED", "OUTPUT"),
    ):
        theirs = (
            "-m conntrack --ctstate INVALID -j DROP"
            if table == "filter"
            else "-j MARK --set-xmark 0x1/0x1"
        )
        made.feed(f"*{table}\n-F {built_in}\n-A {built_in} {theirs}\nCOMMIT\n")
        assert made.inside(driver.differs)
        assert made.apply(driver, WANTED)
        assert made.rules()[table][built_in] == [f"-j {chain}", theirs]
        made.feed(f"*{table}\n-D {built_in} {theirs}\nCOMMIT\n")
        settle(made, driver)
    assert made.rules() == before


def settle(made: Rig, driver: FirewallDriver) -> None:
    made.apply(driver, WANTED)
    assert made.apply(driver, WANTED) == ()
    assert not made.inside(driver.differs)


def beside(made: Rig, monkeypatch: pytest.MonkeyPatch, theirs: str) -> None:
    """Another program writes this right after each write of ours."""
    write = firewall.restore

    def writing(net: Net, program: firewall.Firewall, text: str) -> None:
        write(net, program, text)
        made.feed(theirs)

    monkeypatch.setattr(firewall, "restore", writing)


def test_what_another_program_writes_in_the_middle_of_a_round_is_noticed(
    made: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    driver = FirewallDriver(Kernel(), clock=lambda: now[0])
    settle(made, driver)
    made.feed("*raw\n-F PREROUTING\nCOMMIT\n")
    beside(made, monkeypatch, "*filter\n-F FORWARD\nCOMMIT\n")
    assert made.apply(driver, WANTED)
    monkeypatch.undo()
    now[0] += SETTLE
    assert made.inside(driver.differs)
    settle(made, driver)
    now[0] += SETTLE
    assert not made.inside(driver.differs)
    assert made.inside(lambda: driver.faults(WANTED)) == []


def test_what_never_stays_as_it_was_written_is_not_written_all_the_time(
    made: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    driver = FirewallDriver(Kernel(), clock=lambda: now[0])
    settle(made, driver)
    undone = "*raw\n-F PREROUTING\nCOMMIT\n"
    made.feed(undone)
    beside(made, monkeypatch, undone)
    for _ in range(2):
        assert made.inside(driver.differs)
        assert made.apply(driver, WANTED)
        now[0] += SETTLE
    assert not made.inside(driver.differs)


def test_two_programs_that_both_want_to_be_first_come_to_rest(made: Rig) -> None:
    now = [1000.0]
    driver = FirewallDriver(Kernel(), clock=lambda: now[0])
    made.apply(driver, WANTED)
    push = "*filter\n:THEIRS - [0:0]\n-I FORWARD 1 -j THEIRS\nCOMMIT\n"
    made.feed(push)
    assert made.apply(driver, WANTED)
    assert made.rules()["filter"]["FORWARD"] == ["-j NETSPACE-FED", "-j THEIRS"]
    made.feed("*filter\n-D FORWARD -j THEIRS\n-I FORWARD 1 -j THEIRS\nCOMMIT\n")
    assert made.apply(driver, WANTED) == ()
    assert not made.inside(driver.differs)
    now[0] += 31
    assert made.inside(driver.differs)
    assert made.apply(driver, WANTED)
    assert made.rules()["filter"]["FORWARD"] == ["-j NETSPACE-FED", "-j THEIRS"]


def test_foreign_chains_and_sets_are_as_they_were(made: Rig) -> None:
    made.feed(DROPS.format(LOCAL[0]))
    made.feed("*mangle\n-A FORWARD -j MARK --set-xmark 0x1/0x1\nCOMMIT\n")
    theirs = AddressSet("theirs", "hash:net", 4, frozenset({"192.0.2.0/24"}))
    run_in(made.node, lambda net: ensure_sets(net, [theirs]))
    before = foreign(made.rules())
    driver = FirewallDriver(Kernel())
    made.apply(driver, WANTED)
    assert foreign(made.rules()) == before
    made.apply(driver, DesiredNode())
    after = made.rules()
    assert foreign(after) == before
    assert not any("NETSPACE" in chain for chains in after.values() for chain in chains)
    assert run_in(made.node, lambda net: read_set(net, theirs)) == theirs.entries


def test_a_peer_that_left_takes_its_sets_with_it(made: Rig) -> None:
    driver = FirewallDriver(Kernel())
    made.apply(driver, WANTED)
    many = len(run_in(made.node, set_names))
    made.apply(driver, replace(WANTED, flows=(), exposures=(), mss=()))
    assert 0 < len(run_in(made.node, set_names)) < many


def test_the_agent_hooks_again_with_its_next_looks(made: Rig) -> None:
    """As the agent looks: whether something differs, again and again."""
    driver = FirewallDriver(Kernel())
    settle(made, driver)
    over = threading.Event()
    looks: list[bool] = []

    def keep() -> None:
        while not over.wait(0.5):
            looks.append(made.inside(driver.differs) and bool(made.apply(driver, WANTED)))

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        made.feed("*filter\n-F FORWARD\n-F NETSPACE-FED\nCOMMIT\n*raw\n-F PREROUTING\nCOMMIT\n")
        before = len(looks)
        deadline = time.monotonic() + 30
        # The one under way may see half of the harm, and the rest is looked for after a while.
        while len(looks) < before + 2 + SETTLE / 0.5:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert made.inside(lambda: driver.faults(WANTED)) == []
    finally:
        over.set()
        thread.join()
