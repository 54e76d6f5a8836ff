"""Configuration files: all faults at once, each with its place; the example documents all keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from ipam_server.config import ServerConfig
from ipam_server.main import main
from netspace.config import load
from netspace.problems import Problem

EXAMPLE = Path(__file__).parents[2] / "conf" / "server.yaml"


def faults(folder: Path, text: str | bytes) -> tuple[str, ...]:
    path = folder / "server.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Problem) as caught:
        load(path, ServerConfig)
    assert caught.value.code == "invalid"
    assert "\n" not in str(caught.value)
    return caught.value.errors


def config(folder: Path, text: str) -> ServerConfig:
    path = folder / "server.yaml"
    path.write_text(text)
    return load(path, ServerConfig)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert config(tmp_path, "# nothing\n") == ServerConfig()
    assert ServerConfig().listen == ("unix:///run/netspace/server.sock",)


def test_all_faults_are_named_with_their_places(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        """
        listen: [unix:///a.sock, 5]
        leader_ttl: soon
        colour: red
        etcd: {timeout: 0, endpoint: x}
        limits: {body: 1}
        """,
    )
    places = {fault.split(": ")[1] for fault in found}
    assert places == {
        "listen[1]",
        "leader_ttl",
        "colour",
        "etcd.timeout",
        "etcd.endpoint",
        "limits.body",
    }
    assert all(fault.startswith("server.yaml: ") for fault in found)
    assert "server.yaml: colour: there is no such key" in found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("listen: [", "line 1, column 10"),
        ("- a\n- b\n", "mapping"),
        ("just text", "mapping"),
        ("name: a\nname: b\n", "'name' stands twice"),
        ("etcd:\n  timeout: 1\n  timeout: 2\n", "'timeout' stands twice"),
        ("name: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
        ("? [a]\n: b\n", "unhashable"),
        (b"name: \xff\n", "not YAML"),
        (b"name: a\x00\n", "not YAML"),
        (b"a: " + b"[" * 100_000, "YAML"),
        (b"#" * (2**20 + 1), "larger"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str | bytes, why: str) -> None:
    [fault] = faults(tmp_path, text)
    assert why in fault


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        load(tmp_path / "none.yaml", ServerConfig)
    assert caught.value.errors == ("none.yaml: it cannot be read: No such file or directory",)


@pytest.mark.parametrize(
    "url", ["http://0.0.0.0:8470", "http://192.0.2.1:8470", "http://[::]:80", "http://localhost:80"]
)
def test_an_address_others_could_reach_is_refused_without_tls(tmp_path: Path, url: str) -> None:
    [fault] = faults(tmp_path, f"listen: ['{url}']")
    assert "without TLS" in fault


TLS = "tls: {ca: /a, cert: /b, key: /c}"


def test_with_tls_every_address_may_be_listened_on_by_https_alone(tmp_path: Path) -> None:
    urls = "[https://0.0.0.0:8470, 'https://[::]:8470', unix:///a, http://127.0.0.1:1]"
    found = config(tmp_path, f"listen: {urls}\n{TLS}")
    assert [endpoint.tls for endpoint in found.listeners] == [True, True, False, False]
    [fault] = faults(tmp_path, f"listen: ['http://0.0.0.0:8470']\n{TLS}")
    assert "write https" in fault


def test_other_servers_are_told_an_address_that_they_can_reach(tmp_path: Path) -> None:
    for urls, reached in (
        ("[unix:///a, 'https://0.0.0.0:1', 'https://ipam-1:1']", "https://ipam-1:1"),
        ("[unix:///a, 'https://[::]:1']", "unix:///a"),
        ("[unix:///a]\nadvertise: https://b:1", "https://b:1"),
    ):
        assert config(tmp_path, f"listen: {urls}\n{TLS}").reached_at == reached


def test_https_needs_certificates(tmp_path: Path) -> None:
    [fault] = faults(tmp_path, "listen: ['https://127.0.0.1:8470']")
    assert "tls.ca, tls.cert and tls.key" in fault
    found = faults(tmp_path, "tls: {ca: /a}")
    assert {fault.split(": ")[1] for fault in found} == {"tls.cert", "tls.key"}


@pytest.mark.parametrize(
    "url",
    [
        "/run/a.sock",
        "unix://run/a.sock",
        "unix:///",
        "http://127.0.0.1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:80/v1",
        "http://me@127.0.0.1:80",
        "https://127.0.0.1:80",
        "ftp://127.0.0.1:80",
        "",
    ],
)
def test_what_is_no_endpoint_is_refused(tmp_path: Path, url: str) -> None:
    [fault] = faults(tmp_path, f"listen: ['{url}']")
    assert "endpoint" in fault


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("socket_mode: 0600", "socket_mode"),
        ("socket_mode: '0900'", "socket_mode"),
        ("socket_mode: '4600'", "socket_mode"),
        ("name: Server_1", "name"),
        ("listen: []", "listen"),
        ("listen: [unix:///a, unix:///a]", "listen"),
        ("etcd: {endpoints: []}", "etcd.endpoints"),
        ("etcd: {endpoints: [localhost:2379]}", "etcd.endpoints"),
        ("etcd: {endpoints: ['https://127.0.0.1:2379']}", "etcd"),
        ("etcd: {tls: {ca: a, cert: b}}", "etcd.tls"),
        ("limits: {timeout: 5, commit: 5}", "limits"),
        ("limits: {timeout: .nan}", "limits.timeout"),
        ("leader_ttl: 0", "leader_ttl"),
        ("log_level: loud", "log_level"),
    ],
)
def test_values_out_of_bounds_are_refused(tmp_path: Path, text: str, place: str) -> None:
    [fault] = faults(tmp_path, text)
    assert fault.startswith(f"server.yaml: {place}: ")


# The example


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        inner = [
            kind
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        found |= keys(inner[0], f"{prefix}{name}.") if inner else {f"{prefix}{name}"}
    return found


def written(content: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in content.items():
        found |= (
            written(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
        )
    return found


def test_the_example_is_correct_and_shows_the_defaults() -> None:
    example = load(EXAMPLE, ServerConfig)
    assert example.model_copy(update={"name": ServerConfig().name}) == ServerConfig()


def test_the_example_documents_every_key() -> None:
    uncommented = re.sub(
        r"(?m)^(\s*)# (advertise:|tls:|  (?:ca|cert|key):)", r"\1\2", EXAMPLE.read_text()
    )
    assert written(yaml.safe_load(uncommented)) == keys(ServerConfig)


# The command line


def test_check_says_that_a_configuration_is_correct() -> None:
    result = CliRunner().invoke(main, ["--check", "--config", str(EXAMPLE)])
    assert result.exit_code == 0
    assert "correct" in result.output


def test_check_lists_every_fault_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text("name: A_B\nleader_ttl: -1\n")
    result = CliRunner().invoke(main, ["--check", "--config", str(path)])
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("netspace-server: server.yaml: ") for line in lines)
