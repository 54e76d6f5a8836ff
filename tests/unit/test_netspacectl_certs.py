"""`netspacectl certs` writes files that are right and safe; the settings are found and obeyed."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from netspace.config import load
from netspace.problems import Problem
from netspace.tls import Tls, client_context, open_context, server_context
from netspacectl.settings import CtlConfig, read
from tests.unit.netspacectl_double import MemoryClient, Terminal

Capture = pytest.CaptureFixture[str]
CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "SERVER", "CLUSTER", "CA", "CERT", "KEY"):
        monkeypatch.delenv(name if name.startswith("X") else f"NETSPACE_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(MemoryClient("east"))


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def subject(path: Path) -> str:
    return certificate(path).subject.rfc4514_string()


# Files


def test_an_authority_and_every_kind_of_certificate(tmp_path: Path, terminal: Terminal) -> None:
    for words in (
        "ca",
        "server s1 --host 10.0.0.5 --host IPAM.example.net --host [fd00::5]",
        "node east node-1",
        "controller east",
        "admin alice@example.net",
        "monitor prometheus",
        "webhook --host webhook.example.svc",
    ):
        assert terminal.run("certs", *words.split()) == 0
    assert terminal.client.asked == []
    made = {path.name: subject(path) for path in tmp_path.glob("*.pem")}
    assert made == {
        "ca.pem": "CN=netspace",
        "server-s1.pem": "CN=s1,O=netspace:servers",
        "node-east-node-1.pem": "CN=node-1,OU=east,O=netspace:nodes",
        "controller-east.pem": "OU=east,O=netspace:controllers",
        "admin-alice@example.net.pem": "CN=alice@example.net,O=netspace:admins",
        "monitor-prometheus.pem": "CN=prometheus,O=netspace:monitors",
        "webhook.pem": "CN=webhook.example.svc,O=netspace:webhooks",
    }
    webhook = Tls(tmp_path / "ca.pem", tmp_path / "webhook.pem", tmp_path / "webhook.key")
    open_context(webhook)
    ca = certificate(tmp_path / "ca.pem")
    for path in tmp_path.glob("*-*.pem"):
        certificate(path).verify_directly_issued_by(ca)
        assert stat.S_IMODE(path.with_suffix(".key").stat().st_mode) == 0o600
        client_context(Tls(tmp_path / "ca.pem", path, path.with_suffix(".key")))
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    pair = tmp_path / "server-s1.pem"
    server_context(Tls(tmp_path / "ca.pem", pair, pair.with_suffix(".key")))
    names = certificate(pair).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ipam.example.net"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5", "fd00::5"]


def test_uses_and_times_are_those_asked_for(tmp_path: Path, terminal: Terminal) -> None:
    assert terminal.run("certs", "ca", "--days", "30", "--name", "Bank") == 0
    assert terminal.run("certs", "node", "east", "n1", "--days", "7") == 0
    assert terminal.run("certs", "admin", "alice", "--days", "900") == 0
    node = certificate(tmp_path / "node-east-n1.pem")
    left = node.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=6) < left < timedelta(days=7, minutes=1)
    uses = node.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    basic = node.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not basic.ca
    # Nobody outlives the authority.
    ca = certificate(tmp_path / "ca.pem")
    assert certificate(tmp_path / "admin-alice.pem").not_valid_after_utc == ca.not_valid_after_utc
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_nothing_is_overwritten_unless_it_is_forced(
    tmp_path: Path, terminal: Terminal, capsys: Capture
) -> None:
    assert terminal.run("certs", "ca") == 0
    before = (tmp_path / "ca.key").read_bytes()
    assert terminal.run("certs", "ca") == 1
    assert "already, and nothing was written" in capsys.readouterr().err
    assert (tmp_path / "ca.key").read_bytes() == before
    (tmp_path / "ca.pem").unlink()
    assert terminal.run("certs", "ca") == 1
    assert not (tmp_path / "ca.pem").exists()
    assert terminal.run("certs", "ca", "--force") == 0
    assert (tmp_path / "ca.key").read_bytes() != before
    target = tmp_path / "elsewhere"
    target.write_text("mine")
    (tmp_path / "admin-a.key").symlink_to(target)
    assert terminal.run("certs", "admin", "a") == 1
    assert target.read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


def test_the_authority_may_lie_apart_and_is_named_where_it_is_missing(
    tmp_path: Path, terminal: Terminal, capsys: Capture
) -> None:
    assert terminal.run("certs", "admin", "a") == 3
    assert "make one with 'netspacectl certs ca'" in capsys.readouterr().err
    assert terminal.run("certs", "ca", "--dir", "ca") == 0
    assert terminal.run("certs", "admin", "a", "--ca-dir", "ca", "--dir", "out/deep") == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "out" / "deep" / "admin-a.pem") in said
    assert f"ca: {tmp_path / 'ca' / 'ca.pem'}" in said
    (tmp_path / "ca" / "ca.key").write_bytes((tmp_path / "out/deep/admin-a.key").read_bytes())
    assert terminal.run("certs", "admin", "b", "--ca-dir", "ca") == 2
    assert "not the certificate of" in capsys.readouterr().err
    (tmp_path / "ca" / "ca.key").write_text("nothing")
    assert terminal.run("certs", "admin", "b", "--ca-dir", "ca") == 2


@pytest.mark.parametrize(
    "words",
    [
        "server s1",
        "server s1 --host a/b",
        "server S_1 --host a",
        "node EAST n1",
        "node east N_1",
        "admin a/b",
        "admin",
        "ca --days 0",
        f"node east {'n' * 70}",
    ],
)
def test_what_no_certificate_can_say_is_refused(terminal: Terminal, words: str) -> None:
    assert terminal.run("certs", "ca") == 0
    assert terminal.run("certs", *words.split()) == 2


# Settings


def settings(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "home" / ".config" / "netspace"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ctl.yaml").write_text(text)


def test_the_file_says_whom_to_ask_and_words_and_environment_overrule_it(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(tmp_path, "server: https://a:1\ncluster: west\nca: ca.pem\ncert: ~/c.pem\nkey: /k\n")
    folder = tmp_path / "home" / ".config" / "netspace"
    assert terminal.run("pool", "list") == 0
    assert terminal.servers[-1] == ("https://a:1",)
    assert terminal.tls == Tls(folder / "ca.pem", tmp_path / "home" / "c.pem", Path("/k"))
    assert terminal.client.asked == [("pools", "west")]
    monkeypatch.setenv("NETSPACE_CA", "/env.pem")
    monkeypatch.setenv("NETSPACE_CERT", "/env.pem")
    assert terminal.run("pool", "list", "-c", "east", "--cert", "/word.pem") == 0
    assert terminal.client.asked[-1] == ("pools", "east")
    assert terminal.tls == Tls(Path("/env.pem"), Path("/word.pem"), Path("/k"))


def test_without_a_file_the_local_socket_is_asked(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(tmp_path, "server: https://a:1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nowhere"))
    assert terminal.run("pool", "list") == 0
    assert terminal.tls is None
    assert terminal.servers[-1] == ("unix:///run/netspace/server.sock",)


def test_files_go_together(terminal: Terminal, capsys: Capture) -> None:
    assert terminal.run("pool", "list", "--ca", "/ca.pem") == 2
    assert "go together" in capsys.readouterr().err


def test_a_wrong_file_is_named_with_all_its_faults(
    tmp_path: Path, terminal: Terminal, capsys: Capture
) -> None:
    settings(tmp_path, "server: ftp://a\ncluster: A B\ncolour: red\n")
    assert terminal.run("pool", "list") == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("server", "cluster", "colour"))


def test_the_example_is_correct_and_names_every_key() -> None:
    config = load(CONF / "ctl.yaml", CtlConfig)
    assert all(getattr(config, key) for key in CtlConfig.model_fields)
    assert read(CONF / "ctl.yaml").ca == CONF / "ca.pem"


def test_one_server_may_stand_without_a_list(tmp_path: Path) -> None:
    path = tmp_path / "ctl.yaml"
    path.write_text("server: https://a:1")
    assert read(path).servers == ("https://a:1",)
    path.write_text("server: [5]")
    with pytest.raises(Problem):
        read(path)
