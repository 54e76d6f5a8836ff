"""The node's configuration and the examples in conf/."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cni_plugins.agent_main import main
from cni_plugins.netconf import OWN_IPAM, node_config_path, parse_netconf
from cni_plugins.node_config import NodeConfig, load, parse
from cni_plugins.protocol import VERSIONS
from netspace.problems import Problem

CONF = Path(__file__).resolve().parents[2] / "conf"
FILE = Path("/etc/netspace/node.yaml")


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(Problem) as caught:
        parse(text.encode(), FILE)
    assert caught.value.code == "invalid"
    return caught.value.errors


def test_the_example_is_a_working_configuration() -> None:
    config = load(CONF / "node.yaml")
    assert (config.cluster, config.node_name) == ("prod", "node-1")
    assert [bond.slaves for bond in config.bonds] == [("eth1", "eth2")]


def test_what_the_example_says_of_defaults_is_true() -> None:
    example, least = load(CONF / "node.yaml"), parse(b"cluster: prod", FILE)
    assert (example.server, example.agent) == (least.server, least.agent)
    assert (example.state_dir, example.log_level) == (least.state_dir, least.log_level)


def test_every_key_stands_in_the_example() -> None:
    text = (CONF / "node.yaml").read_text()
    for key in NodeConfig.__struct_fields__:
        assert f"{key}:" in text


def test_the_example_conflist_is_taken_by_the_plugin() -> None:
    conflist = json.loads((CONF / "10-netspace.conflist").read_text())
    assert {conflist["cniVersion"], *conflist["cniVersions"]} <= set(VERSIONS)
    conf = parse_netconf(conflist["plugins"][0])
    assert (conf.ipam.type, node_config_path(conf)) == (OWN_IPAM, "/etc/netspace/node.yaml")


def test_every_fault_is_named_at_once_with_its_path() -> None:
    found = faults(
        """
        node: Node_1
        server: {endpoints: [unix:///a, "tcp://b"], timeout: 0}
        bonds:
          - {name: bond0, slaves: eth1}
          - {name: "bond 1", slaves: [eth2], mtu: -1, mode: active-backup, colour: red}
        log_levle: info
        """
    )
    places = [fault.removeprefix("node.yaml: ").partition(":")[0] for fault in found]
    assert sorted(places) == [
        "bonds[0].slaves",
        "bonds[1].colour",
        "bonds[1].mtu",
        "bonds[1].name",
        "cluster",
        "log_levle",
        "node",
        "server.endpoints[1]",
        "server.timeout",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cluster: it is missing"),
        ("[]", "mapping"),
        ("cluster: {", "not YAML"),
        ("cluster: a\ncluster: b", "cluster: the key stands there twice (line 2)"),
        ("cluster: a\nserver: {timeout: 1, timeout: 2}", "server.timeout"),
        ("cluster: ../x", "cluster"),
        ("cluster: a\nstate_dir: relative", "state_dir"),
        ("cluster: a\nserver: {endpoints: []}", "server.endpoints"),
        (
            "cluster: a\nbonds: [{name: b0, slaves: [e1]}, {name: b1, slaves: [e1]}]",
            "bonds[1]: e1 stands in bonds[0] already",
        ),
    ],
)
def test_a_fault_says_what_and_where(text: str, why: str) -> None:
    found = faults(text)
    assert len(found) == 1
    assert why in found[0]


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="cannot be read"):
        load(tmp_path / "node.yaml")
    (tmp_path / "node.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(Problem, match="larger"):
        load(tmp_path / "node.yaml")


def test_the_agent_names_every_fault_and_ends_with_status_2(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("clutser: a\nserver: {timeout: -1}\n")
    done = CliRunner().invoke(main, ["prepare", "--config", str(tmp_path / "node.yaml")])
    assert done.exit_code == 2
    assert done.stderr.count("netspace-agent: node.yaml: ") == 3


def test_the_agent_without_a_server_says_so_and_ends_with_status_4(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text(
        f"cluster: a\nserver: {{endpoints: ['unix://{tmp_path}/nobody'], timeout: 1}}\n"
        f"state_dir: {tmp_path}/state\nlog_level: error\n"
    )
    done = CliRunner().invoke(main, ["prepare", "--config", str(tmp_path / "node.yaml")])
    assert done.exit_code == 4
    assert "nobody" in done.stdout
    assert "pending releases: 0 done, 0 left" in done.stdout


def test_https_needs_an_authority_a_certificate_and_a_key() -> None:
    secured = "cluster: a\nserver: {endpoints: ['https://a:1'], ca: /a, cert: /b, key: /c}"
    tls = parse(secured.encode(), FILE).server.tls()
    assert tls is not None
    assert [str(path) for path in tls.files()] == ["/a", "/b", "/c"]
    assert parse(b"cluster: a", FILE).server.tls() is None
    for text in (
        secured.replace(", cert: /b", ""),
        "cluster: a\nserver: {endpoints: ['https://a:1']}",
    ):
        with pytest.raises(Problem, match="https needs ca, cert and key"):
            parse(text.encode(), FILE)
