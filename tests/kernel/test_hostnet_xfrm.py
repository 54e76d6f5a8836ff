"""IPsec policies and states of the kernel, beside what `ip xfrm` says."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from hostnet import AlreadyThere, Net, Netns, anonymous_netns, run_in
from hostnet.xfrm import (
    Change,
    Policy,
    Template,
    change_policies,
    esp_missing,
    list_policies,
    list_states,
)
from hostnet.xfrm_monitor import PolicyMonitor

FAR = Template(ip_address("192.0.2.1"), ip_address("192.0.2.2"), 0x4E500001)
ANYONE = Template(ip_address("::"), ip_address("2001:db8::1"), 7, optional=True)
OUT = Policy(
    "out", ip_network("0.0.0.0/0"), ip_network("10.2.0.0/16"), 100, template=FAR,
    mark=0x100000, mask=0xF00000,
)  # fmt: skip
ALL = [
    OUT,
    replace(OUT, mark=0x200000, template=replace(FAR, target=ip_address("192.0.2.3"))),
    Policy("out", ip_network("0.0.0.0/0"), ip_network("10.2.0.0/16"), 200, block=True),
    Policy("out", ip_network("::/0"), ip_network("fd02::/64"), 1, template=FAR),
    Policy("out", ip_network("10.1.0.1/32"), ip_network("10.2.0.1/32"), 3, protocol=17, port=4791),
    Policy("in", ip_network("10.2.0.0/16"), ip_network("10.1.0.0/16"), 5, template=ANYONE),
    Policy("fwd", ip_network("fd02::/64"), ip_network("fd01::/64"), 0x4E53FFFF, template=ANYONE),
]


@pytest.fixture
def netns() -> Iterator[Netns]:
    with anonymous_netns() as made:
        yield made


def _added(net: Net) -> None:
    assert change_policies(net, [Change("add", policy) for policy in ALL]) == []


def _told(_: Net) -> str:
    command = ["ip", "xfrm", "policy"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return " ".join(done.stdout.split())


def test_policies_are_listed_as_they_were_added(netns: Netns) -> None:
    def job(net: Net) -> list[Policy]:
        _added(net)
        return list_policies(net)

    assert sorted(run_in(netns, job), key=repr) == sorted(ALL, key=repr)


def test_ip_says_the_same(netns: Netns) -> None:
    run_in(netns, _added)
    told = run_in(netns, _told)
    for words in (
        "src 0.0.0.0/0 dst 10.2.0.0/16 dir out priority 100 ptype main mark 0x100000/0xf00000"
        " tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1313865729 mode tunnel",
        "src 0.0.0.0/0 dst 10.2.0.0/16 dir out action block priority 200",
        "src ::/0 dst fd02::/64 dir out priority 1 ptype main tmpl src 192.0.2.1 dst 192.0.2.2",
        "src 10.1.0.1/32 dst 10.2.0.1/32 proto udp dport 4791 dir out priority 3",
        "src 10.2.0.0/16 dst 10.1.0.0/16 dir in priority 5 ptype main"
        " tmpl src :: dst 2001:db8::1 proto esp reqid 7 mode tunnel level use",
    ):
        assert words in told


def test_a_policy_is_replaced_in_one_step_and_another_is_never_added_over_it(netns: Netns) -> None:
    other = replace(OUT, template=replace(FAR, target=ip_address("192.0.2.9")), priority=99)

    def job(net: Net) -> list[Policy]:
        assert change_policies(net, [Change("add", OUT)]) == []
        ((_, error),) = change_policies(net, [Change("add", other)])
        assert isinstance(error, AlreadyThere)
        assert "10.2.0.0/16 mark 0x100000/0xf00000" in str(error)
        assert list_policies(net) == [OUT]
        assert change_policies(net, [Change("replace", other)]) == []
        return list_policies(net)

    assert run_in(netns, job) == [other]


def test_policies_are_deleted_and_one_that_is_gone_is_no_error(netns: Netns) -> None:
    def job(net: Net) -> list[Policy]:
        _added(net)
        deletions = [Change("delete", policy) for policy in ALL[1:]]
        assert change_policies(net, [*deletions, *deletions]) == []
        return list_policies(net)

    assert run_in(netns, job) == [OUT]


def test_a_thousand_policies_are_listed_and_changed(netns: Netns) -> None:
    many = [
        replace(OUT, destination=ip_network(f"10.{n // 256}.{n % 256}.0/24")) for n in range(1000)
    ]

    def job(net: Net) -> list[Policy]:
        assert change_policies(net, [Change("add", policy) for policy in many]) == []
        return list_policies(net)

    assert set(run_in(netns, job)) == set(many)


def test_changes_are_told(netns: Netns) -> None:
    with run_in(netns, lambda _: PolicyMonitor()) as monitor:
        run_in(netns, _added)

        async def told() -> None:
            await asyncio.wait_for(monitor.changed(), 5)

        asyncio.run(told())


def test_without_states_none_are_listed(netns: Netns) -> None:
    assert run_in(netns, list_states) == []


def test_whether_there_is_esp_is_what_ip_finds_too(netns: Netns) -> None:
    state = "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode tunnel aead"
    command = [*state.split(), "rfc4106(gcm(aes))", "0x" + "11" * 36, "128"]
    done = run_in(netns, lambda _: subprocess.run(command, capture_output=True))
    assert (esp_missing() == "") == (done.returncode == 0)
    if done.returncode:
        assert "load the modules esp4" in esp_missing()
