"""Several interfaces of one pod, made as Multus makes them of `conf/multus.yaml`.

Multus (k8snetworkplumbingwg/multus-cni, pkg/types/conf.go) calls a plugin once for each attachment,
in their order: the same container, CNI_IFNAME eth0, net1, net2, the configuration of the
NetworkAttachmentDefinition, and of the pod's annotation what the configuration's capabilities name.
In CNI_ARGS its own pairs stand before those that the runtime gave to it. It takes attachments away
in the opposite order. The pod's annotations it does not hand on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hostnet import Net, Netns, get_link, list_links, list_routes, run_in
from lab import programs
from netspace.messages import NewPool
from tests.agents import WAYS, by
from tests.node_fixtures import CLUSTER
from tests.nodes import Answer, IpamServer, Node, dual_stack, links, used
from tests.wires import namespaces, wire

_POD = (
    "K8S_POD_NAMESPACE=default;K8S_POD_NAME=db-0;"
    "K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=7c7f3a5e-0b3f-4c0e-9a6e-1f0f5c1b2d3e"
)
ARGS = f"IgnoreUnknown=true;{_POD};{_POD};IgnoreUnknown=1"
_DOCUMENTS = list(yaml.safe_load_all((programs.CLONE / "conf" / "multus.yaml").read_text()))
CONFIGS: dict[str, dict[str, Any]] = {
    document["metadata"]["name"]: json.loads(document["spec"]["config"])
    for document in _DOCUMENTS
    if document["kind"] == "NetworkAttachmentDefinition"
}
SELECTED: list[dict[str, Any]] = json.loads(
    next(document for document in _DOCUMENTS if document["kind"] == "Pod")["metadata"][
        "annotations"
    ]["k8s.v1.cni.cncf.io/networks"]
)
"""What the example's pod asks for."""


@dataclass
class Lab:
    """A node with a link for each of three networks, and a pod."""

    server: IpamServer
    node: Node
    pod: Netns

    def call(
        self, command: str, ifname: str, conf: Mapping[str, Any], selected: Mapping[str, Any]
    ) -> Answer:
        """One of Multus's calls."""
        asked = {key: selected[key] for key in ("ips", "mac") if key in selected}
        ours = {**conf, "ipam": {**conf["ipam"], "config": str(self.node.config)}}
        if asked:
            ours["runtimeConfig"] = asked
        return self.node.call(command, "c1", self.pod, ours, args=ARGS, ifname=ifname)

    def attach(
        self, *attachments: tuple[str, Mapping[str, Any], Mapping[str, Any]]
    ) -> list[Answer]:
        answers = []
        for ifname, conf, selected in attachments:
            answers.append(self.call("ADD", ifname, conf, selected))
            assert answers[-1].status == 0, answers[-1]
        return answers

    def eth0(self, **ipam: Any) -> dict[str, Any]:
        """The cluster's own network, which Multus calls first."""
        conf = self.node.conflist()
        return {**conf, "ipam": {**conf["ipam"], **ipam}}


@pytest.fixture(params=WAYS)
def lab(request: pytest.FixtureRequest, server: IpamServer, tmp_path: Path) -> Iterator[Lab]:
    with namespaces(3) as (host, other, pod):
        for number in range(3):
            wire(host, f"up{number}", other, f"far{number}")
        with by(request.param, Node(host, tmp_path, CLUSTER, server.url)) as node:
            yield Lab(server, node, pod)


@pytest.fixture(scope="module", autouse=True)
def networks(server: IpamServer) -> None:
    """The example's networks and pools, each on a link of its own."""
    for number, name in enumerate(CONFIGS, 1):
        declare_network(server, name, number)


def declare_network(server: IpamServer, name: str, number: int) -> None:
    network = dual_stack(10 + 10 * number, name=name, parent=f"up{number}")
    pool = NewPool(
        name=name, kind="netspace", network=name, size="16", cooldown=0, namespaces=["*"]
    )
    server.ask(lambda client: client.create_network(CLUSTER, network))
    server.ask(lambda client: client.create_pool(CLUSTER, pool))


def test_every_interface_has_its_own_network_pool_and_parent(lab: Lab) -> None:
    storage, front = SELECTED
    answers = lab.attach(
        ("eth0", lab.eth0(), {}),
        ("net1", CONFIGS["storage"], storage),
        ("net2", CONFIGS["front"], front),
    )
    assert links(lab.pod) == ["eth0", "net1", "net2"]
    assert [answer.addresses[0].rpartition(".")[0] for answer in answers] == [
        "10.1.0",
        "10.20.0",
        "10.30.0",
    ]
    assert [len(answer.addresses) for answer in answers] == [2, 2, 2]
    assert parents(lab) == ["up0", "up1", "up2"]
    assert used(lab.server, CLUSTER) == 3
    detach_all(lab)


def test_an_address_and_a_mac_of_the_pods_annotation_are_used(lab: Lab) -> None:
    (answer,) = lab.attach(("net1", CONFIGS["storage"], SELECTED[0]))
    assert answer.addresses[0] == SELECTED[0]["ips"][0]
    assert answer.json["interfaces"][0]["mac"] == SELECTED[0]["mac"]
    detach_all(lab)


def test_one_interface_has_the_default_routes(lab: Lab) -> None:
    eth0, front = lab.eth0(routes=[]), CONFIGS["front"]
    attachments: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("eth0", eth0, {}),
        ("net1", CONFIGS["storage"], {}),
        ("net2", front, {}),
    ]
    answers = lab.attach(*attachments)
    gateways = [(gateway, "net2") for gateway in SELECTED[1]["default-route"]]
    assert default_routes(lab.pod) == gateways
    for (ifname, conf, _), answer in zip(attachments, answers, strict=True):
        checked = lab.call("CHECK", ifname, {**conf, "prevResult": answer.json}, {})
        assert checked.status == 0, checked
    detach_all(lab)


def test_where_several_bring_default_routes_the_first_keeps_them(lab: Lab) -> None:
    attachments: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("eth0", lab.eth0(), {}),
        ("net2", CONFIGS["front"], {}),
    ]
    answers = lab.attach(*attachments)
    assert {ifname for _, ifname in default_routes(lab.pod)} == {"eth0"}
    for (ifname, conf, _), answer in zip(attachments, answers, strict=True):
        checked = lab.call("CHECK", ifname, {**conf, "prevResult": answer.json}, {})
        assert checked.status == 0, checked
    detach_all(lab)


def test_an_attachment_that_fails_leaves_the_others_to_multus(lab: Lab) -> None:
    lab.attach(("eth0", lab.eth0(), {}), ("net1", CONFIGS["storage"], {}))
    # An address that the pod may not have; Multus then calls DEL for all.
    refused = lab.call("ADD", "net2", CONFIGS["front"], {"ips": ["10.99.0.1/24"]})
    assert refused.status == 1
    assert links(lab.pod) == ["eth0", "net1"]
    assert used(lab.server, CLUSTER) == 2
    detach_all(lab)


def detach_all(lab: Lab) -> None:
    """DEL of all, the last first, and once more each, as after a restart of the kubelet."""
    confs = {"net2": CONFIGS["front"], "net1": CONFIGS["storage"], "eth0": lab.eth0()}
    for ifname, conf in confs.items():
        for _ in range(2):
            gone = lab.call("DEL", ifname, conf, {})
            assert gone.status == 0, gone
    assert (links(lab.pod), lab.node.files(), used(lab.server, CLUSTER)) == ([], [], 0)


def parents(lab: Lab) -> list[str]:
    """The node's links below eth0, net1 and net2."""
    found = run_in(
        lab.pod, lambda net: [get_link(net, name).parent for name in ("eth0", "net1", "net2")]
    )
    names = run_in(lab.node.netns, lambda net: {x.index: x.name for x in list_links(net)})
    return [names[index] for index in found if index is not None]


def default_routes(pod: Netns) -> list[tuple[str, str]]:
    """Gateway and interface of the default routes, IPv4 first."""

    def look(net: Net) -> list[tuple[str, str]]:
        return [
            (str(found.route.gateway), get_link(net, found.link).name)
            for found in list_routes(net)
            if found.route.destination.prefixlen == 0
        ]

    return sorted(run_in(pod, look), key=lambda entry: ":" in entry[0])
