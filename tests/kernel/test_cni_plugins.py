"""The executables as a runtime calls them: real kernel, real server, real etcd, untagged. Each by
itself and by way of the agent.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP, Ether

from hostnet import (
    Netns,
    delete_link,
    find_link,
    get_link,
    list_addresses,
    list_routes,
    read_sysctl,
    run_in,
    set_mtu,
)
from netspace.messages import NewPool
from tests.agents import WAYS, by, wait_for
from tests.nodes import (
    IpamServer,
    Node,
    answer_of,
    declare,
    default_pool,
    dual_stack,
    links,
    netns_path,
    pod_args,
    used,
)
from tests.wires import Tap, namespaces, wire

_clusters = count(2)


@dataclass
class Lab:
    """A node whose `up0` is on a wire, and two pods; `other` is the wire's other end, `way` how the
    node's executables work."""

    server: IpamServer
    node: Node
    other: Netns
    pod: Netns
    second: Netns
    way: str

    @property
    def used(self) -> int:
        return used(self.server, self.node.cluster)

    def nothing_left(self) -> bool:
        return (links(self.pod), self.node.files(), self.used) == ([], [], 0)


@pytest.fixture(params=WAYS)
def lab(request: pytest.FixtureRequest, server: IpamServer, tmp_path: Path) -> Iterator[Lab]:
    number = next(_clusters)
    cluster = f"cluster-{number}"
    declare(
        server,
        cluster,
        dual_stack(number),
        default_pool(),
    )
    with namespaces(2) as (host, other), namespaces(2) as (pod, second):
        wire(host, "up0", other, "far0")
        with by(request.param, Node(host, tmp_path, cluster, server.url)) as node:
            yield Lab(server, node, other, pod, second, request.param)


def test_an_added_pod_has_the_addresses_and_routes_of_the_answer(lab: Lab) -> None:
    answer = lab.node.call("ADD", "c1", lab.pod, lab.node.conflist(), args=pod_args("web-0"))
    assert answer.status == 0, answer
    assert set(answer.json) == {"cniVersion", "interfaces", "ips", "routes"}
    assert answer.json["interfaces"][0]["sandbox"] == netns_path(lab.pod)

    def look(net: Any) -> None:
        link = get_link(net, "eth0")
        assert (link.kind, link.macvlan_mode, link.up) == ("macvlan", "bridge", True)
        assert link.mac == answer.json["interfaces"][0]["mac"]
        found = [address for address in list_addresses(net, link) if address.scope == "global"]
        assert sorted(str(address.interface) for address in found) == sorted(answer.addresses)
        assert not any(address.tentative for address in found)
        routes = {(str(r.route.destination), str(r.route.gateway)) for r in list_routes(net, link)}
        assert {(r["dst"], r["gw"]) for r in answer.json["routes"]} <= routes
        assert read_sysctl(net, "ipv4", "conf", "eth0", "arp_notify") == "1"
        assert read_sysctl(net, "ipv6", "conf", "eth0", "ndisc_notify") == "1"
        assert read_sysctl(net, "ipv6", "conf", "eth0", "accept_ra") == "0"
        assert read_sysctl(net, "ipv6", "conf", "eth0", "keep_addr_on_down") == "1"
        assert read_sysctl(net, "ipv6", "conf", "lo", "disable_ipv6") == "0"

    run_in(lab.pod, look)


# The complete plugin has the same code: its oldest and newest version stand for the rest.
@pytest.mark.parametrize(
    ("lab", "version"),
    [
        *(("agent", version) for version in ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")),
        ("exec", "0.3.0"),
        ("exec", "1.1.0"),
    ],
    indirect=["lab"],
)
def test_every_version_goes_from_add_to_del(lab: Lab, version: str) -> None:
    conf = lab.node.conflist(cniVersion=version)
    answer = lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    assert (answer.status, answer.json["cniVersion"]) == (0, version)
    before = lab.node.conflist(cniVersion=version, prevResult=answer.json)
    if version >= "0.4.0":
        checked = lab.node.call("CHECK", "c1", lab.pod, before, args=pod_args("web-0"))
        assert (checked.status, checked.json) == (0, {}), checked
    if version == "1.1.0":
        assert answer.json["interfaces"][0]["mtu"] == 1500
    assert lab.node.call("DEL", "c1", lab.pod, before, args=pod_args("web-0")).status == 0
    assert lab.nothing_left()


def test_del_goes_on_without_namespace_result_or_anything_to_delete(lab: Lab) -> None:
    conf = lab.node.conflist()
    lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    for pod in (lab.pod, None, None):
        answer = lab.node.call("DEL", "c1", pod, conf, args=pod_args("web-0"))
        assert (answer.status, answer.json) == (0, {}), answer
    assert lab.nothing_left()


def test_the_neighbours_learn_the_addresses_at_once(lab: Lab) -> None:
    def complete(seen: list[Any]) -> bool:
        return any(ARP in frame for frame in seen) and any(ICMPv6ND_NA in frame for frame in seen)

    with Tap(lab.other, "far0") as tap:
        answer = lab.node.call("ADD", "c1", lab.pod, lab.node.conflist(), args=pod_args("web-0"))
        frames = tap.frames(3, complete)
    ipv4, ipv6 = (address.partition("/")[0] for address in answer.addresses)
    mac = answer.json["interfaces"][0]["mac"]
    arp = [frame for frame in frames if ARP in frame]
    assert {(f[Ether].src, f[ARP].psrc, f[ARP].pdst) for f in arp} == {(mac, ipv4, ipv4)}
    assert ipv6 in {f[ICMPv6ND_NA].tgt for f in frames if ICMPv6ND_NA in f}


def test_pods_reach_each_other_on_the_parents_network(lab: Lab) -> None:
    conf = lab.node.conflist()
    first = lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    second = lab.node.call("ADD", "c2", lab.second, conf, args=pod_args("web-1"))
    for address, family in zip(first.addresses, (socket.AF_INET, socket.AF_INET6), strict=True):
        ip = address.partition("/")[0]

        def listen(_: Any, ip: str = ip, family: int = family) -> socket.socket:
            listener = socket.socket(family, socket.SOCK_DGRAM)
            listener.bind((ip, 4711))
            listener.settimeout(5)
            return listener

        def send(_: Any, ip: str = ip, family: int = family) -> None:
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"hello", (ip, 4711))

        with run_in(lab.pod, listen) as listener:
            run_in(lab.second, send)
            data, sender = listener.recvfrom(100)
        assert data == b"hello"
        assert sender[0] in [a.partition("/")[0] for a in second.addresses]


def test_the_mtu_is_the_parents_and_never_above_it(lab: Lab) -> None:
    run_in(lab.node.netns, lambda net: set_mtu(net, get_link(net, "up0"), 1400))
    conf = lab.node.conflist()
    lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    assert run_in(lab.pod, lambda net: get_link(net, "eth0").mtu) == 1400
    answer = lab.node.call("ADD", "c2", lab.second, lab.node.conflist(mtu=1500), args="")
    assert (answer.status, answer.json["code"]) == (1, 7)
    assert (links(lab.second), lab.used) == ([], 1)
    lab.node.call("ADD", "c2", lab.second, lab.node.conflist(mtu=1300), args="")
    assert run_in(lab.second, lambda net: get_link(net, "eth0").mtu) == 1300


def test_a_mac_that_is_asked_for_is_used_and_a_second_time_refused(lab: Lab) -> None:
    conf = lab.node.conflist(runtimeConfig={"mac": "02:11:22:33:44:55"})
    first = lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    assert first.json["interfaces"][0]["mac"] == "02:11:22:33:44:55"
    second = lab.node.call("ADD", "c2", lab.second, conf, args=pod_args("web-1"))
    assert second.status == 1, second
    assert (links(lab.second), lab.used) == ([], 1)


def test_annotations_of_the_pod_reach_the_server(lab: Lab) -> None:
    annotations = {"ipam.com/ip": "10.1.0.250", "other": "x"}
    conf = lab.node.conflist(runtimeConfig={"io.kubernetes.cri.pod-annotations": annotations})
    answer = lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    assert answer.status == 1
    assert "10.1.0.250" in str(answer.json)
    assert lab.nothing_left()
    annotations = {"ipam.com/families": "ipv6"}
    conf = lab.node.conflist(runtimeConfig={"io.kubernetes.cri.pod-annotations": annotations})
    answer = lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    assert [":" in address for address in answer.addresses] == [True]


def test_a_new_sandbox_of_a_pod_takes_its_address_over(lab: Lab) -> None:
    conf = lab.node.conflist()
    first = lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    second = lab.node.call("ADD", "c2", lab.second, conf, args=pod_args("web-0"))
    assert second.addresses == first.addresses
    assert (links(lab.pod), links(lab.second), lab.used) == ([], ["eth0"], 1)
    lab.node.call("DEL", "c1", None, conf, args=pod_args("web-0"))
    assert (links(lab.second), lab.used) == (["eth0"], 1)


# Refusals and undoing


def test_an_interface_that_is_not_ours_is_left_alone(lab: Lab) -> None:
    with namespaces(1) as (elsewhere,):
        wire(lab.pod, "eth0", elsewhere, "x")
        answer = lab.node.call("ADD", "c1", lab.pod, lab.node.conflist(), args=pod_args("web-0"))
        assert (answer.status, answer.json["code"]) == (1, 111), answer
        assert links(lab.pod) == ["eth0"]
        assert lab.used == 0
        assert lab.node.call("DEL", "c1", lab.pod, lab.node.conflist()).status == 0
        assert links(lab.pod) == ["eth0"]


def test_what_is_no_namespace_of_a_pod_is_refused(lab: Lab) -> None:
    for path in ("/proc/self/ns/net", "/etc/hostname", "/proc/self/ns/mnt", "/no"):
        answer = lab.node.call("ADD", "c1", None, lab.node.conflist(), environ={"CNI_NETNS": path})
        assert (answer.status, answer.json["code"]) == (1, 4), answer
    assert (lab.used, lab.node.files()) == (0, [])


def test_a_parent_that_is_missing_is_named(lab: Lab) -> None:
    conf = lab.node.conflist(master="nosuch0")
    answer = lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    assert (answer.status, answer.json["code"]) == (1, 114), answer
    assert "nosuch0" in str(answer.json)
    assert lab.nothing_left()


def test_a_faulty_node_configuration_is_refused_with_all_its_faults(lab: Lab) -> None:
    lab.node.config.write_text("cluster: [x]\nbonds: [{name: bond0}]\nstate_dri: /x\n")
    answer = lab.node.call("ADD", "c1", lab.pod, lab.node.conflist())
    assert answer.json["code"] == 7
    for fault in ("cluster", "bonds[0].slaves", "state_dri"):
        assert fault in answer.json["details"]


def test_an_exhausted_pool_is_error_100_and_says_so(lab: Lab) -> None:
    lab.server.ask(
        lambda client: client.create_pool(
            lab.node.cluster,
            NewPool(name="small", kind="netspace", network="net", size="1", namespaces=["*"]),
        )
    )
    conf = lab.node.conflist(ipam={**lab.node.conflist()["ipam"], "netspace": "small"})
    assert lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0")).status == 0
    answer = lab.node.call("ADD", "c2", lab.second, conf, args=pod_args("web-1"))
    assert (answer.status, answer.json["code"]) == (1, 100)
    assert "small" in answer.json["msg"]
    assert links(lab.second) == []


# The server away


def test_without_a_server_add_is_error_11_and_del_leaves_the_release_pending(lab: Lab) -> None:
    conf = lab.node.conflist()
    lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    lab.server.stop()
    try:
        answer = lab.node.call("ADD", "c2", lab.second, conf, args=pod_args("web-1"))
        assert (answer.status, answer.json["code"]) == (1, 11), answer
        assert (links(lab.second), len(lab.node.records())) == ([], 1)
        assert lab.node.call("DEL", "c1", lab.pod, conf, args=pod_args("web-0")).status == 0
        assert (links(lab.pod), len(lab.node.records())) == ([], 1)
        status = lab.node.call("STATUS", "", None, lab.node.conflist(cniVersion="1.1.0"))
        assert (status.status, status.json["code"]) == (1, 50)
    finally:
        lab.server.start()
    if lab.way == "exec":
        assert lab.used == 1
    else:
        wait_for("the agent gave the address back", lambda: lab.used == 0)
    status = lab.node.call("STATUS", "", None, lab.node.conflist(cniVersion="1.1.0"))
    assert (status.status, status.json) == (0, {}), status
    assert lab.node.call("DEL", "c2", None, conf, args=pod_args("web-1")).status == 0
    assert lab.nothing_left()


def test_with_etcd_killed_add_is_error_11_and_afterwards_all_goes_on(lab: Lab) -> None:
    conf = lab.node.conflist()
    lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    lab.server.etcd.kill()
    try:
        answer = lab.node.call("ADD", "c2", lab.second, conf, args=pod_args("web-1"))
        assert (answer.status, answer.json["code"]) == (1, 11), answer
        assert links(lab.second) == []
    finally:
        lab.server.etcd.start()
    deadline = time.monotonic() + 30
    while (
        answer := lab.node.call("ADD", "c2", lab.second, conf, args=pod_args("web-1"))
    ).status and time.monotonic() < deadline:
        assert answer.json["code"] == 11
        time.sleep(0.3)
    assert (answer.status, lab.used) == (0, 2), answer
    for container in ("c1", "c2"):
        lab.node.call("DEL", container, None, conf)
    assert lab.used == 0
    assert lab.node.files() == []


def _hanging_add(lab: Lab) -> subprocess.Popen[bytes]:
    """An ADD that has asked the server, which waits for an etcd that stands still."""
    environment = {
        "PATH": os.defpath,
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": netns_path(lab.pod),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": lab.node.cni_path,
        "CNI_ARGS": pod_args("web-0"),
    }
    process = lab.node.start(environment)
    assert process.stdin is not None
    process.stdin.write(json.dumps(lab.node.conflist()).encode())
    process.stdin.close()
    process.stdin = None
    record = lab.node.state / "attachments" / "c1@eth0.json"
    deadline = time.monotonic() + 10
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert process.poll() is None
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_add_that_is_ended_is_cleaned_by_the_del_that_follows(lab: Lab, number: int) -> None:
    lab.server.etcd.pause()
    try:
        process = _hanging_add(lab)
        process.send_signal(number)
        time.sleep(0.3)
    finally:
        lab.server.etcd.resume()
    answer = answer_of(process.wait(30), *process.communicate())
    if (number, lab.way) == (signal.SIGTERM, "exec"):
        assert (answer.status, answer.json["code"]) == (1, 11), answer
    assert links(lab.pod) == []
    assert lab.node.call("DEL", "c1", lab.pod, lab.node.conflist()).status == 0
    assert lab.nothing_left()


# CHECK and GC


def test_check_finds_what_was_changed_behind_the_plugins_back(lab: Lab) -> None:
    conf = lab.node.conflist()
    answer = lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    before = lab.node.conflist(prevResult=answer.json)
    assert lab.node.call("CHECK", "c1", lab.pod, before).status == 0
    elsewhere = lab.node.call("CHECK", "c1", lab.second, before)
    assert elsewhere.json["code"] == 112
    run_in(lab.pod, lambda net: delete_link(net, "eth0"))
    checked = lab.node.call("CHECK", "c1", lab.pod, before)
    assert (checked.status, checked.json["code"]) == (1, 112)
    unknown = lab.node.call("CHECK", "c9", lab.pod, before)
    assert unknown.status == 1


def test_gc_keeps_the_valid_attachments_and_takes_the_others_away(lab: Lab) -> None:
    conf = lab.node.conflist(cniVersion="1.1.0")
    lab.node.call("ADD", "c1", lab.pod, conf, args=pod_args("web-0"))
    lab.node.call("ADD", "c2", lab.second, conf, args=pod_args("web-1"))
    assert lab.node.call("GC", "", None, conf).status == 0
    assert lab.used == 2
    valid = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    answer = lab.node.call("GC", "", None, {**conf, **valid})
    assert (answer.status, answer.json) == (0, {}), answer
    assert (links(lab.pod), links(lab.second), lab.used) == ([], ["eth0"], 1)
    assert run_in(lab.second, lambda net: find_link(net, "eth0")) is not None
