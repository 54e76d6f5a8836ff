"""What the manifests say and what the programs, the image and the examples say: the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cni_plugins import install_main, node_config
from federation.node.config import FederationAgentConfig
from federation.server.config import FederationConfig
from ipam_server.config import ServerConfig
from kube_controller.config import ControllerConfig
from lab import debian, image, programs
from netspace.config import load

KUBERNETES = programs.CLONE / "packaging" / "kubernetes"
BASE = KUBERNETES / "base"
FEDERATION = KUBERNETES / "components" / "federation"


def objects(*paths: Path) -> list[dict[str, Any]]:
    found = [yaml.safe_load_all(path.read_text()) for path in paths]
    return [each for documents in found for each in documents if each]


@pytest.mark.parametrize("folder", ["base", "overlays/try"])
def test_the_server_takes_its_configuration(folder: str, tmp_path: Path) -> None:
    text = (KUBERNETES / folder / "server-config.yaml").read_text()
    etcd = "https://10.0.0.1:2379, https://10.0.0.2:2379"
    text = text.replace("@HOST_IP@", "10.0.0.9").replace("@ETCD_ENDPOINTS@", etcd)
    (tmp_path / "server.yaml").write_text(text)
    config = load(tmp_path / "server.yaml", ServerConfig)
    assert config.reached_at == "https://10.0.0.9:8470"


def test_the_federations_programs_take_their_configuration(tmp_path: Path) -> None:
    values = {"@HOST_IP@": "10.0.0.9", "@ETCD_ENDPOINTS@": "https://e:1", "@NODE_NAME@": "node-1"}
    for name in ("server", "agent"):
        text = (FEDERATION / f"{name}-config.yaml").read_text()
        for word, value in values.items():
            text = text.replace(word, value)
        (tmp_path / f"{name}.yaml").write_text(text)
    server = load(tmp_path / "server.yaml", FederationConfig)
    agent = load(tmp_path / "agent.yaml", FederationAgentConfig)
    [service] = [each for each in objects(FEDERATION / "server.yaml") if each["kind"] == "Service"]
    assert agent.server.endpoints == (f"https://{service['spec']['clusterIP']}:8473",)
    assert server.reached_at == "https://10.0.0.9:8473"
    assert server.federation.reached_at == ["https://10.0.0.9:8475"]


def test_programs_on_one_node_listen_on_ports_of_their_own() -> None:
    """All of them use the node's network."""
    patches = {"overlays"}
    ports = [
        port["containerPort"]
        for path in KUBERNETES.rglob("*.yaml")
        if not patches & set(path.relative_to(KUBERNETES).parts) and "-config" not in path.name
        for each in objects(path)
        if each["kind"] in ("Deployment", "DaemonSet")
        for container in each["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", ())
    ]
    assert len(ports) == len(set(ports))


def test_the_controller_takes_its_configuration() -> None:
    load(BASE / "controller-config.yaml", ControllerConfig)


def test_the_node_takes_its_configuration_and_asks_at_the_services_address() -> None:
    config = node_config.load(BASE / "node-config.yaml")
    [service] = [each for each in objects(BASE / "server.yaml") if each["kind"] == "Service"]
    assert config.server.endpoints == (f"https://{service['spec']['clusterIP']}:8470",)


def test_the_conflist_is_the_example() -> None:
    name = install_main.CONFLIST
    assert (BASE / name).read_bytes() == (programs.CLONE / "conf" / name).read_bytes()


def test_every_image_is_one_that_is_made() -> None:
    texts = [path.read_text() for path in KUBERNETES.rglob("*.yaml")]
    found = {name for text in texts for name in re.findall(r"^ +image: (\S+)$", text, re.M)}
    assert found == set(image.names())


def test_the_dockerfile_describes_what_is_put_together() -> None:
    text = (KUBERNETES / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM (debian\S+)", text, re.M)) == {f"debian:{debian.SUITE}-slim"}
    system, etcd = re.findall(r"--no-install-recommends ([a-z -]+) \\", text)
    assert tuple(system.split()) == debian.INCLUDED
    assert etcd == "etcd-server"
