"""The programs of the package on a system without Python, as an admin and a runtime run them."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import click
import pytest
import vici

import netspace
from cni_plugins.protocol import VERSIONS
from cni_plugins.services.wanted import vmac_name
from hostnet import Netns, list_routes, run_in
from lab.package import Built
from lab.package_tree import PACKAGING
from netspacectl.main import cli
from tests.nodes import links, netns_path, pod_args
from tests.package.system import PATH, System, until
from tests.wires import namespaces, wire

PROGRAMS = (
    *("netspace-agent", "netspace-server", "netspace-controller", "netspace-federation"),
    "netspacectl",
)
EXECUTABLES = ("netspace", "netspace-ipam")
COMMANDS = cli.list_commands(click.Context(cli))
_containers = count()


def test_there_is_no_python_on_the_system(installed: System) -> None:
    found = [path for path in installed.files() if re.search(r"bin/(python|pypy)", path)]
    assert found == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_says_its_version(installed: System, program: str) -> None:
    output, _ = installed.run(program, "--version")
    assert netspace.__version__ in output


@pytest.mark.parametrize("executable", EXECUTABLES)
def test_an_executable_answers_version_where_no_agent_runs(
    installed: System, executable: str
) -> None:
    output, _ = installed.run(
        f"/opt/cni/bin/{executable}", environ={"CNI_COMMAND": "VERSION"}, stdin=b"{}"
    )
    assert json.loads(output)["supportedVersions"] == list(VERSIONS)


def test_every_command_of_netspacectl_is_there(installed: System) -> None:
    for word in COMMANDS:
        installed.run("netspacectl", word, "--help")


def test_bash_is_told_how_to_complete(installed: System) -> None:
    script = "/usr/share/bash-completion/completions/netspacectl"
    output, _ = installed.run("bash", "-c", f"source {script} && complete -p netspacectl")
    assert "_netspacectl_completion" in output
    words = {"_NETSPACECTL_COMPLETE": "bash_complete", "COMP_WORDS": "netspacectl po"}
    output, _ = installed.run("netspacectl", environ={**words, "COMP_CWORD": "1"})
    assert output == "plain,pool\n"


def test_certificates_are_made(installed: System) -> None:
    installed.run("netspacectl", "certs", "ca", "--dir", "/root/ca")
    assert b"CERTIFICATE" in (installed.root / "root/ca/ca.pem").read_bytes()


def test_the_server_takes_the_configuration_that_comes_with_it(
    installed: System, built: Built
) -> None:
    shutil.copyfile(built.root / "etc/netspace/server.yaml", installed.root / "root/server.yaml")
    output, _ = installed.run("netspace-server", "--check", "--config", "/root/server.yaml")
    assert "correct" in output


@pytest.mark.parametrize(("command", "name"), [("serve", "server"), ("agent", "agent")])
def test_the_federations_programs_take_the_configuration_that_comes_with_them(
    installed: System, built: Built, command: str, name: str
) -> None:
    file = f"federation-{name}.yaml"
    shutil.copyfile(built.root / "etc/netspace" / file, installed.root / "root" / file)
    words = ("netspace-federation", command, "--check", "--config", f"/root/{file}")
    assert "correct" in installed.run(*words)[0]


def test_charon_answers_with_the_rights_of_its_unit(installed: System, folder: Path) -> None:
    socket_ = installed.root / "run/netspace/charon.vici"
    # It makes mounts of its own, below a root that is one.
    root = str(installed.root)
    script = 'mount --bind "$1" "$1" && shift && exec "$@"'
    mounted = ("unshare", "--mount", "--propagation=private", "--", "sh", "-c", script, "sh", root)
    with namespaces(1) as (host,):
        charon = installed.start(
            "netspace-federation", "charon",
            netns=host, before=(*mounted, *as_the_unit("netspace-charon")), log=folder / "log",
        )  # fmt: skip
        try:
            until(lambda: socket_.exists() or charon.poll() is not None, "charon listens")
            assert charon.poll() is None, (folder / "log").read_text()
            with socket.socket(socket.AF_UNIX) as asked:
                asked.connect(str(socket_))
                assert vici.Session(asked).version()["daemon"] == b"charon"
        finally:
            charon.terminate()
            charon.wait(30)
    said = (folder / "log").read_text()
    assert "failed to load" not in said, said


def test_the_server_audits_its_state_in_a_process_of_its_own(served: System) -> None:
    output, _ = served.run("netspacectl", "-o", "json", "audit")
    assert json.loads(output)["findings"] == []


@dataclass
class Node:
    """A node's namespace with `up0` on a wire, a pod's, and the system both run on."""

    system: System
    netns: Netns
    pod: Netns

    def call(
        self, command: str, container: str, *, status: int = 0, before: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """What `netspace` answers."""
        output, errors = self.system.run(
            "/opt/cni/bin/netspace",
            stdin=json.dumps(CONF).encode(),
            status=status,
            netns=self.netns,
            environ=environment(command, container, self.pod),
            before=before,
        )
        answer: dict[str, Any] = json.loads(output) if output else {}
        assert status or not answer.get("code"), errors
        return answer


CONF = {
    "cniVersion": "1.0.0",
    "name": "net",
    "type": "netspace",
    "ipam": {"type": "netspace-ipam"},
}


def environment(command: str, container: str, pod: Netns) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns_path(pod),
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": pod_args(container),
        "CNI_PATH": "/opt/cni/bin",
        "PATH": PATH,
    }


@pytest.fixture
def node(served: System) -> Iterator[Node]:
    served.write("etc/netspace/node.yaml", {"cluster": "prod", "node": "node-1"})
    with namespaces(3) as (host, other, pod):
        wire(host, "up0", other, "far0")
        yield Node(served, host, pod)


def as_the_unit(name: str = "netspace-agent") -> tuple[str, ...]:
    """What gives a program the rights that its unit gives it, and no others."""
    unit = (PACKAGING / f"systemd/{name}.service").read_text()
    [line] = re.findall(r"(?m)^CapabilityBoundingSet=(.+)$", unit)
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in line.split())
    # chroot is the test's own need.
    return ("setpriv", f"--bounding-set=-all,{kept},+sys_chroot", "--no-new-privs", "--")


def test_a_pod_comes_and_goes_without_an_agent(node: Node) -> None:
    container = f"c{next(_containers)}"
    added = node.call("ADD", container)
    assert [ip["address"].split(".")[0].split(":")[0] for ip in added["ips"]] == ["10", "fd00"]
    assert links(node.pod) == ["eth0"]
    node.call("DEL", container)
    assert links(node.pod) == []


@contextmanager
def agent_of(node: Node, folder: Path) -> Iterator[None]:
    """Its agent, with the unit's rights."""
    log = folder / "log"
    agent = node.system.start(
        "netspace-agent", "serve", netns=node.netns, log=log, before=as_the_unit()
    )
    try:
        socket = node.system.root / "run/netspace/cni.sock"
        until(lambda: socket.exists() or agent.poll() is not None, "the agent listens")
        assert agent.poll() is None, log.read_text()
        yield
    finally:
        agent.terminate()
        agent.wait(60)
    assert agent.returncode == 0, log.read_text()


def test_a_pod_comes_and_goes_with_the_agent_and_its_units_rights(
    node: Node, tmp_path: Path
) -> None:
    with agent_of(node, tmp_path):
        container = f"c{next(_containers)}"
        # Without the complete plugin: it is the agent that answers.
        plugin = node.system.root / "opt/cni/bin/netspace-plugin"
        plugin.rename(plugin.with_name("elsewhere"))
        try:
            added = node.call("ADD", container)
            assert len(added["ips"]) == 2
            assert links(node.pod) == ["eth0"]
            node.system.run("netspace-agent", "status", netns=node.netns)
            node.call("DEL", container)
            assert links(node.pod) == []
        finally:
            plugin.with_name("elsewhere").rename(plugin)


def test_the_agent_makes_the_way_to_services_with_its_units_rights(
    node: Node, tmp_path: Path
) -> None:
    services = {"cidrs": ["10.96.0.0/16", "fd00:96::/108"]}
    config = {"cluster": "prod", "node": "node-1"}
    node.system.write("etc/netspace/node.yaml", {**config, "services": services})
    well = "services: chains, hooks, sets and settings are ours"

    def diagnosed() -> str:
        words = ("sh", "-c", "netspace-agent diagnose || true")
        return node.system.run(*words, netns=node.netns)[0]

    with agent_of(node, tmp_path):
        vmac = vmac_name("up0", None)
        until(lambda: vmac in links(node.netns), "there is a vmac")
        until(lambda: well in diagnosed(), "the way to Services is made")
        container = f"c{next(_containers)}"
        node.call("ADD", container)
        routes = run_in(node.pod, list_routes)
        assert "10.96.0.0/16" in {str(each.route.destination) for each in routes}
        node.call("DEL", container)
    node.system.write("etc/netspace/node.yaml", config)
    with agent_of(node, tmp_path):
        until(lambda: vmac not in links(node.netns), "the vmac is gone")
