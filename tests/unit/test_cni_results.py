"""Results in every version, answers of the server against the slot mapping, configurations."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.answers import check_allocation, result_of
from cni_plugins.failures import to_cni_error
from cni_plugins.netconf import node_config_path, parse_netconf, pod_of, selections, wanted_mac
from cni_plugins.protocol import VERSIONS, CniError
from cni_plugins.results import (
    PRIVATE_KEY,
    Interface,
    Ip,
    Private,
    Result,
    Route,
    attached,
    encode_ipam_result,
    encode_result,
    gateway_of,
    parse_delegated,
    parse_result,
)
from hostnet import Busy, NetnsMissing
from netspace.messages import Allocation
from netspace.problems import KINDS, Problem
from tests.unit.cni_bench import invocation
from tests.unit.cni_doubles import network_view

NEW_KEYS = {"mtu", "socketPath", "pciID", "advmss", "priority", "table", "scope"}


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(keys_of(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(keys_of(item) for item in value))
    return set()


addresses = st.one_of(
    st.builds(lambda a, p: f"{a}/{p}", st.ip_addresses(v=4), st.integers(0, 32)),
    st.builds(lambda a, p: f"{a}/{p}", st.ip_addresses(v=6), st.integers(0, 128)),
)
results = st.builds(
    lambda ips, routes, mtu, name: Result(
        interfaces=[Interface(name=name, mac="02:00:00:00:00:01", sandbox="/ns", mtu=mtu)],
        ips=[Ip(address=address, interface=0) for address in ips],
        routes=routes,
    ),
    st.lists(addresses, min_size=1, max_size=4),
    st.lists(
        st.builds(
            Route,
            dst=st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "::/0", "fd00::/8"]),
            mtu=st.integers(0, 9000),
            advmss=st.integers(0, 9000),
            priority=st.integers(0, 100),
            table=st.none() | st.integers(1, 500),
            scope=st.none() | st.sampled_from([0, 253]),
        ),
        max_size=3,
    ),
    st.integers(0, 9000),
    st.sampled_from(["eth0", "net1"]),
)


@given(results)
def test_version_1_1_0_keeps_everything(result: Result) -> None:
    answer = json.loads(encode_result(result, "1.1.0"))
    assert parse_result(answer, 7, "it") == result


@given(results, st.sampled_from(VERSIONS))
def test_every_version_keeps_what_it_has_and_says_nothing_newer(
    result: Result, version: str
) -> None:
    answer = json.loads(encode_result(result, version))
    assert answer["cniVersion"] == version
    read = parse_result(answer, 7, "it")
    assert [ip.address for ip in read.ips] == [ip.address for ip in result.ips]
    assert [(r.dst, r.gw) for r in read.routes] == [(r.dst, r.gw) for r in result.routes]
    assert [(i.name, i.mac, i.sandbox) for i in read.interfaces] == [
        (i.name, i.mac, i.sandbox) for i in result.interfaces
    ]
    if version != "1.1.0":
        assert not keys_of(answer) & NEW_KEYS
    families = [ip.get("version") for ip in answer["ips"]]
    if version.startswith("0."):
        assert families == ["6" if ":" in ip.address else "4" for ip in result.ips]
    else:
        assert set(families) == {None}


@given(results, st.sampled_from(VERSIONS))
def test_an_ipam_result_has_no_interfaces_and_binds_no_address(
    result: Result, version: str
) -> None:
    answer = json.loads(encode_ipam_result(result, version))
    assert "interfaces" not in answer
    assert all("interface" not in ip for ip in answer["ips"])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_private_key_goes_from_ours_to_ours_and_never_to_the_runtime(version: str) -> None:
    given_by_ipam = Result(
        ips=[Ip(address="10.0.0.5/24", gateway="10.0.0.1")],
        netspace=Private(parent="bond0", vlan=910, mtu=1400, network="net"),
    )
    said = json.loads(encode_ipam_result(given_by_ipam, version))
    assert said[PRIVATE_KEY] == {"parent": "bond0", "vlan": 910, "mtu": 1400, "network": "net"}
    read = parse_delegated(said, "netspace-ipam")
    assert read.netspace == given_by_ipam.netspace
    final = attached(read, Interface(name="eth0", sandbox="/ns"))
    assert PRIVATE_KEY not in json.loads(encode_result(final, version))


def test_members_that_are_null_count_as_absent() -> None:
    read = parse_result(
        {"cniVersion": "0.4.0", "ips": [{"address": "10.0.0.5/24", "gateway": None}], "dns": None},
        7,
        "it",
    )
    assert read.ips == [Ip(address="10.0.0.5/24")]


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.5/24"}},
        {"cniVersion": "1.0.0", "ips": {}},
        {"cniVersion": "1.0.0", "ips": [{}]},
        {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5"}]},
        {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.256/24"}]},
        {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/24", "gateway": "fd00::1"}]},
        {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/24", "interface": 3}]},
        {"cniVersion": "1.0.0", "routes": [{"dst": "10.0.0.0/33"}]},
        {"cniVersion": "1.0.0", "routes": [{"dst": "10.0.0.0/8", "gw": "fd00::1"}]},
        {"cniVersion": "1.1.0", "routes": [{"dst": "10.0.0.0/8", "mtu": -1}]},
        {"cniVersion": "1.0.0", "routes": [{"dst": "10.0.0.0/8"}] * 1001},
    ],
)
def test_a_result_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(CniError) as caught:
        parse_result(value, 6, "the result of x")
    assert caught.value.code == 6


def test_an_ipam_result_without_address_is_refused() -> None:
    with pytest.raises(CniError):
        parse_delegated({"cniVersion": "1.0.0", "ips": []}, "x")


def test_a_route_without_gateway_takes_that_of_its_family() -> None:
    result = Result(
        ips=[
            Ip(address="10.0.0.5/24", gateway="10.0.0.1"),
            Ip(address="fd00::5/64", gateway="fd00::1"),
        ]
    )
    assert gateway_of(result, Route(dst="::/0")) == "fd00::1"
    assert gateway_of(result, Route(dst="10.1.0.0/16")) == "10.0.0.1"
    assert gateway_of(result, Route(dst="10.1.0.0/16", gw="10.0.0.9")) == "10.0.0.9"


# The server's answers


def allocation(**changes: Any) -> Allocation:
    values: dict[str, Any] = {
        "cluster": "c1",
        "pool": "default",
        "slot": "5",
        "generation": 1,
        "ipv4": "10.9.0.5",
        "ipv6": "fd00:9::5",
        "network": network_view(),
        "how": "never",
    }
    return Allocation(**{**values, **changes})


def test_a_right_answer_becomes_both_addresses_with_their_default_routes() -> None:
    answer = allocation()
    check_allocation(answer, "c1")
    result = result_of(answer, parse_netconf({}))
    assert [(ip.address, ip.gateway) for ip in result.ips] == [
        ("10.9.0.5/24", "10.9.0.1"),
        ("fd00:9::5/64", "fd00:9::1"),
    ]
    assert [(route.dst, route.gw) for route in result.routes] == [
        ("0.0.0.0/0", "10.9.0.1"),
        ("::/0", "fd00:9::1"),
    ]
    assert result.netspace == Private(parent="bond0", vlan=910, network="net")


def test_one_family_alone_is_a_right_answer() -> None:
    answer = allocation(ipv4=None)
    check_allocation(answer, "c1")
    assert [ip.address for ip in result_of(answer, parse_netconf({})).ips] == ["fd00:9::5/64"]


def test_configured_routes_replace_the_default_ones() -> None:
    conf = parse_netconf({"ipam": {"routes": [{"dst": "10.0.0.0/8"}]}})
    assert result_of(allocation(), conf).routes == [Route(dst="10.0.0.0/8")]


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster": "c2"},
        {"slot": "6"},
        {"slot": "256"},
        {"slot": "-1"},
        {"slot": "x"},
        {"ipv4": "10.9.0.6"},
        {"ipv6": "fd00:9::6"},
        {"ipv4": None, "ipv6": None},
        {"network": network_view(ipv6=None)},
        {"network": network_view(ipv4=None)},
        {"network": network_view(ipv4=None, ipv6=None)},
        {"network": network_view(ipv4="fd00::/64")},
        {"network": network_view(ipv4="10.9.0.1/24")},
        {"network": network_view(mapping="embedded")},
        {"network": network_view(parent="../x")},
        {"network": network_view(parent="")},
        {"network": network_view(vlan=0)},
        {"network": network_view(vlan=4095)},
        {"network": network_view(gateway4="fd00::1")},
        {"network": network_view(gateway4="x")},
    ],
)
def test_an_answer_that_cannot_be_right_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CniError) as caught:
        check_allocation(allocation(**changes), "c1")
    assert caught.value.code == 110


@given(st.integers(0, 255), st.integers(0, 255))
def test_an_answer_is_right_exactly_for_its_own_slot(slot: int, address: int) -> None:
    answer = allocation(slot=str(slot), ipv4=f"10.9.0.{address}", ipv6=f"fd00:9::{address:x}")
    answer.ipv6 = "fd00:9::" if address == 0 else answer.ipv6
    try:
        check_allocation(answer, "c1")
        right = True
    except CniError:
        right = False
    assert right == (slot == address)


# Configurations


def test_the_mac_of_the_runtime_comes_first_then_the_arguments_then_the_configuration() -> None:
    macs = [f"02:00:00:00:00:0{n}" for n in range(3)]
    call = invocation(args=f"MAC={macs[1]}")
    every = {"runtimeConfig": {"mac": macs[0].upper()}, "mac": macs[2]}
    assert wanted_mac(parse_netconf(every), call) == macs[0]
    assert wanted_mac(parse_netconf({"mac": macs[2]}), call) == macs[1]
    assert wanted_mac(parse_netconf({"mac": macs[2]}), invocation()) == macs[2]
    assert wanted_mac(parse_netconf({}), invocation()) is None


@pytest.mark.parametrize(
    "mac", ["x", "02:00:00:00:00", "01:00:5e:00:00:01", "00:00:00:00:00:00", "0200.0000.0001"]
)
def test_a_mac_that_no_interface_can_have_is_refused(mac: str) -> None:
    with pytest.raises(CniError) as caught:
        wanted_mac(parse_netconf({"mac": mac}), invocation())
    assert caught.value.code == 7
    with pytest.raises(CniError) as caught:
        wanted_mac(parse_netconf({}), invocation(args=f"MAC={mac}"))
    assert caught.value.code == 4


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"mode": "bridged"}, "mode"),
        ({"mtu": -1}, "mtu"),
        ({"mtu": "1500"}, "mtu"),
        ({"master": "../eth0"}, "master"),
        ({"vlan": 0}, "vlan"),
        ({"vlan": 4095}, "vlan"),
        ({"linkInContainer": "yes"}, "linkInContainer"),
        ({"ipam": {"config": "node.yaml"}}, "ipam.config"),
        ({"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"a": 1}}}, "runtimeConfig"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_key(config: dict[str, Any], where: str) -> None:
    with pytest.raises(CniError) as caught:
        parse_netconf(config)
    assert (caught.value.code, where in caught.value.details) == (7, True)


def test_keys_of_the_reference_plugin_keep_their_names() -> None:
    conf = parse_netconf(
        {
            "type": "netspace",
            "master": "eth1",
            "mode": "vepa",
            "mtu": 1400,
            "linkInContainer": True,
            "bcqueuelen": 1000,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}]]},
            "runtimeConfig": {"mac": "02:00:00:00:00:01", "portMappings": []},
            "unheard-of": {"a": 1},
        }
    )
    assert (conf.master, conf.mode, conf.mtu, conf.link_in_container) == (
        "eth1",
        "vepa",
        1400,
        True,
    )


def with_annotations(**annotations: str) -> dict[str, Any]:
    prefixed = {f"ipam.com/{key}": value for key, value in annotations.items()}
    return {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {**prefixed, "other": "x"}}}


def test_annotations_are_the_pods_wish_and_the_conflist_the_default() -> None:
    config = {**with_annotations(netspace="tenant-a"), "ipam": {"netspace": "tenant-b"}}
    asked, default = selections(parse_netconf(config), invocation())
    assert (asked.netspace, default.netspace) == ("tenant-a", "tenant-b")


def test_a_pod_without_annotations_asks_for_nothing_as_containerd_tells_it() -> None:
    conf = parse_netconf({"runtimeConfig": {"io.kubernetes.cri.pod-annotations": None}})
    asked, _ = selections(conf, invocation())
    assert (asked.netspace, asked.application, asked.ip) == (None, None, ())


def test_an_address_of_the_runtime_is_the_pods_wish_unless_its_annotations_name_one() -> None:
    call = invocation(args="IP=10.9.0.8")
    config: dict[str, Any] = {"runtimeConfig": {"ips": ["10.9.0.9/24", "fd00:9::9/64"]}}
    assert selections(parse_netconf(config), call)[0].ip == ("10.9.0.9", "fd00:9::9")
    assert selections(parse_netconf({}), call)[0].ip == ("10.9.0.8",)
    annotated = parse_netconf(with_annotations(ip="10.9.0.7"))
    assert selections(annotated, call)[0].ip == ("10.9.0.7",)


@pytest.mark.parametrize(
    "annotations",
    [
        {"netspace": "../x"},
        {"netspace": "a", "application": "b"},
        {"ip": "10.0.0.256"},
        {"ip": "10.0.0.1,10.0.0.2"},
        {"families": "ipv5"},
        {"netspaec": "a"},
    ],
)
def test_hostile_or_misspelt_annotations_are_refused(annotations: dict[str, str]) -> None:
    with pytest.raises(CniError) as caught:
        selections(parse_netconf(with_annotations(**annotations)), invocation())
    assert caught.value.code == 7


def test_the_pod_is_who_the_runtime_says() -> None:
    pod = pod_of(invocation(args="K8S_POD_NAME=web-0;IgnoreUnknown=1"))
    assert (pod.namespace, pod.name, pod.uid) == ("", "web-0", "")


def test_the_node_configuration_is_the_ipam_sections_then_the_plugins_then_the_usual_one() -> None:
    own = {"type": "netspace-ipam"}
    both = {"config": "/a", "ipam": {**own, "config": "/b"}}
    assert node_config_path(parse_netconf(both)) == "/b"
    assert node_config_path(parse_netconf({"config": "/a", "ipam": own})) == "/a"
    assert node_config_path(parse_netconf({"ipam": own})) == "/etc/netspace/node.yaml"
    assert node_config_path(parse_netconf({"ipam": {"type": "x", "config": "/b"}})) == ""


# Failures


@pytest.mark.parametrize("code", KINDS)
def test_every_problem_has_a_cni_code_and_those_that_may_pass_are_11(code: str) -> None:
    error = to_cni_error(Problem(code, "what", do="do"))
    assert (error.code == 11) == KINDS[code].again
    assert error.code in (7, 11) or error.code >= 100


def test_kernel_errors_have_codes() -> None:
    assert to_cni_error(Busy("a", "b", "c", "d")).code == 11
    assert to_cni_error(NetnsMissing("a", "b", "c", "d")).code == 4
    assert to_cni_error(OSError(28, "No space left", "/x")).code == 5
    assert to_cni_error(RuntimeError("secret")).code == 121
    assert "secret" not in str(to_cni_error(RuntimeError("secret")))


def test_results_survive_the_record() -> None:
    result = Result(ips=[Ip(address="10.0.0.5/24", interface=0)], netspace=Private(vlan=3))
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result
