"""What is refused before the server is asked, and what an exit status and its one line say."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netspace.problems import KINDS, Problem
from netspace.slots import SlotError, SlotMap
from netspacectl import exits, words
from netspacectl.text import duration, parse_duration, printable
from tests.unit.netspacectl_double import MemoryClient, Terminal

Capture = pytest.CaptureFixture[str]
CREATE = "network create n --ipv4 10.91.0.0/24"
REFUSED = {
    "pool create Tenant --kind netspace --network n --size 1": "'Tenant' is no pool name",
    "pool create a/b --kind netspace --network n --size 1": "is no pool name",
    "pool create p --kind tenant --network n --size 1": "'tenant' is not one of",
    "pool create p --kind netspace --size 1": "missing option '--network'",
    "pool create p --kind netspace --network n": "give --size or --range",
    "pool create p --kind netspace --network n --size 1 --range 10.0.0.1": "not both",
    "pool create p --kind netspace --network n --size 0": "between 1 and 2^128",
    "pool create p --kind netspace --network n --size -1": "is no number of addresses",
    f"pool create p --kind netspace --network n --size {2**128 + 1}": "between 1 and 2^128",
    "pool create p --kind netspace --network n --range 10.0.0.9-10.0.0.1": "ends before it begins",
    "pool create p --kind netspace --network n --range 10.0.0.1-fd00::1": "in the other",
    "pool create p --kind netspace --network n --range 10.0.0.1/24": "host bits set",
    "pool create p --kind netspace --network n --size 1 --namespace a.b": "is no namespace",
    "pool create p --kind netspace --network n --size 1 --cooldown 5x": "is no duration",
    "pool create p --kind netspace --network n --size 1 --cooldown 366d": "longer than a year",
    "pool grow p": "give --size or --range",
    "pool shrink p --size 1 --range 10.0.0.1": "not both",
    "pool change p": "nothing to change",
    "pool change p --add-namespace a --remove-namespace a": "namespace a is both added and removed",
    "network create n": "needs an IPv4 subnet",
    "network create n --ipv4 10.0.0.0": "is not a subnet with a prefix length",
    "network create n --ipv4 fd00::/64": "is no IPv4 subnet",
    "network create n --ipv6 fd00::/120 --ipv4 10.0.0.0/16": "fewer addresses",
    f"{CREATE} --mapping embedded": "needs an IPv4 and an IPv6 subnet",
    f"{CREATE} --vlan 4095": "4095 is not in the range 1<=x<=4094",
    f"{CREATE} --mtu 65536": "is not in the range",
    f"{CREATE} --gateway4 10.92.0.1": "gateway 10.92.0.1 is not in 10.91.0.0/24",
    f"{CREATE} --gateway4 fd00::1": "fd00::1 is no IPv4 address",
    f"{CREATE} --gateway6 fd00::1": "no subnet of its family",
    f"{CREATE} --exclude 10.92.0.0/24": "is not in 10.91.0.0/24",
    f"{CREATE} --range 10.91.1.1": "is not in 10.91.0.0/24",
    f"{CREATE} --parent bond0/1": "is no link name",
    "network change n": "nothing to change",
    "network change n --vlan 0": "is not in the range",
    "network change n --gateway4 nothing": "is not an IP address",
    "address show 10.0.0": "is not an IP address",
    "address show fd00::1%eth0": "is not a plain IPv6 address",
    "address list --state gone": "'gone' is not one of",
    "address list --node Node_1": "is no node name",
    f"address reserve 10.0.0.1 --network n --note {'x' * 201}": "use at most 200",
    "pool list --server ftp://x": "endpoint 'ftp://x'",
    "pool list -o xml": "'xml' is not one of",
    "pool list -c East": "'East' is no cluster name",
    "pool remove p": "there is no command 'remove': use create, list, show, change, grow",
    "pools list": "there is no command 'pools': use fabric, cluster, network, pool",
    "pool show": "missing argument 'POOL'",
    "pool show a b": "unexpected extra argument",
    "pool list --all": "no such option",
}


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(MemoryClient("east"))


class TestRefusals:
    @pytest.mark.parametrize(("line", "why"), REFUSED.items(), ids=list(REFUSED))
    def test_it_is_refused_in_one_line_before_the_server_is_asked(
        self, terminal: Terminal, capsys: Capture, line: str, why: str
    ) -> None:
        assert terminal.run(*line.split()) == exits.USAGE
        shown = capsys.readouterr()
        assert why.lower() in shown.err.lower()
        assert shown.err.startswith("netspacectl: ")
        assert shown.err.count("\n") == 1
        assert shown.out == ""
        assert terminal.client.asked == []

    @pytest.mark.parametrize("line", ["", "pool"])
    def test_half_a_command_gets_the_help(
        self, terminal: Terminal, capsys: Capture, line: str
    ) -> None:
        assert terminal.run(*line.split()) == exits.USAGE
        assert capsys.readouterr().err.startswith("Usage: netspacectl")

    @given(st.text(alphabet="0123456789abcdef.:/-, x", max_size=24) | st.ip_addresses().map(str))
    def test_a_span_is_taken_where_a_network_around_everything_takes_it(self, text: str) -> None:
        family = (
            (IPv4Network("0.0.0.0/0"), None) if ":" not in text else (None, IPv6Network("::/0"))
        )
        try:
            SlotMap(*family).parse_ranges([text])
        except SlotError:
            with pytest.raises(click.BadParameter):
                words.Span().convert(text, None, None)
        else:
            taken = words.Span().convert(text, None, None)
            assert SlotMap(*family).parse_ranges([taken]) == SlotMap(*family).parse_ranges([text])

    @given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
    def test_spans_are_taken_in_order_only(self, a: int, b: int) -> None:
        span = f"{IPv4Address(a)} - {IPv4Address(b)}"
        if a <= b:
            assert words.Span().convert(span, None, None) == span.replace(" ", "")
        else:
            with pytest.raises(click.BadParameter):
                words.Span().convert(span, None, None)


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("0", 0),
            ("30", 30),
            ("30s", 30),
            ("0.5s", 0.5),
            ("5m", 300),
            ("2h", 7200),
            ("7d", 604_800),
            ("1h30m", 5400),
            ("1d2h3m4s", 93_784),
        ],
    )
    def test_people_write_them_so(self, text: str, seconds: float) -> None:
        assert parse_duration(text) == seconds

    @pytest.mark.parametrize(
        "text", ["", "s", "5 m", "-5s", "1m1h", "1h-", "½s", "٣s", "1e3", "nan"]
    )
    def test_anything_else_is_none(self, text: str) -> None:
        with pytest.raises(ValueError):
            parse_duration(text)

    @given(st.integers(0, words.MAX_SECONDS * 1000))
    def test_what_is_shown_can_be_written(self, thousandths: int) -> None:
        assert parse_duration(duration(thousandths / 1000)) == pytest.approx(thousandths / 1000)


class TestExits:
    @pytest.mark.parametrize("code", KINDS)
    def test_every_problem_has_its_status_and_one_line(
        self, terminal: Terminal, capsys: Capture, code: str
    ) -> None:
        terminal.client.problem = Problem(
            code,
            "pool tenant-a is in use\nby 3 pods",
            do="delete\x1b[31m them first",
            retry_after=12.0,
            errors=("a: 1", "b: 2"),
        )
        wanted = {
            "bad-request": exits.USAGE,
            "invalid": exits.USAGE,
            "not-found": exits.NOT_FOUND,
            "pool-unknown": exits.NOT_FOUND,
        }.get(code, exits.AGAIN if KINDS[code].again else exits.REFUSED)
        assert terminal.run("fabric", "delete", "x") == wanted
        assert capsys.readouterr().err == (
            "netspacectl: pool tenant-a is in use by 3 pods; a: 1; b: 2:"
            " delete�[31m them first (retry after 12s)\n"
        )

    def test_statuses_that_are_given_are_those_that_are_documented(self) -> None:
        statuses = {exits.status_of_code(code) for code in KINDS}
        assert statuses | {
            *(exits.DONE, exits.DIFFERS, exits.INTERRUPTED, exits.PIPE_CLOSED)
        } == set(exits.MEANINGS)

    def test_an_interruption_is_130_and_says_nothing(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        terminal.client.problem = KeyboardInterrupt()
        assert terminal.run("fabric", "list") == exits.INTERRUPTED
        assert capsys.readouterr().err == ""

    def test_a_fault_of_the_program_itself_is_one_line_too(
        self, terminal: Terminal, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("NETSPACECTL_TRACE", raising=False)
        terminal.client.problem = RuntimeError("ouch")
        assert terminal.run("fabric", "list") == exits.REFUSED
        assert "RuntimeError: ouch" in capsys.readouterr().err

    def test_a_reader_that_goes_away_is_no_error_on_stderr(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        program = [sys.executable, "-c", "from netspacectl.main import main; main()"]
        ended = subprocess.run(
            [*program, "pool", "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=30
        )
        os.close(writer)
        assert (ended.returncode, ended.stderr) == (exits.PIPE_CLOSED, b"")

    @given(st.text())
    def test_text_from_elsewhere_never_steers_a_terminal(self, text: str) -> None:
        assert printable(text).isprintable()
