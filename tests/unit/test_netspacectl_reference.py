"""The page docs/cli.md, the help, the shell completion and what a start imports."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from netspacectl.app import App
from netspacectl.complete import PATIENCE
from netspacectl.main import PROGRAM, cli
from netspacectl.reference import PAGE, page
from netspacectl.tree import Verb
from tests.unit.netspacectl_double import MemoryClient, Terminal, network, pool

Capture = pytest.CaptureFixture[str]


def verbs(group: click.Group = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Verb]]:
    """Every command that does something, with its words."""
    for name, command in ((name, group.get_command(root(), name)) for name in names(group)):
        if isinstance(command, click.Group):
            yield from verbs(command, (*words, name))
        else:
            assert isinstance(command, Verb)
            yield " ".join((*words, name)), command


def root() -> click.Context:
    return click.Context(cli, info_name=PROGRAM)


def names(group: click.Group) -> list[str]:
    return group.list_commands(root())


VERBS = dict(verbs())


def examples(text: str) -> list[str]:
    """The command lines in the console blocks of a Markdown text."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if line.strip()]


def parsed(line: str) -> click.Context:
    """The context that a command line makes, without running anything."""
    program, *arguments = shlex.split(line.partition(" > ")[0])
    assert program == PROGRAM
    ctx = cli.make_context(PROGRAM, arguments, obj=App())
    rest = [*ctx._protected_args, *ctx.args]
    while isinstance(ctx.command, click.Group):
        name, command, rest = ctx.command.resolve_command(ctx, rest)
        assert command is not None
        ctx = command.make_context(name, rest, parent=ctx)
        rest = [*ctx._protected_args, *ctx.args]
    return ctx


class TestThePage:
    def test_it_is_what_the_commands_make_of_it(self) -> None:
        assert PAGE.read_text() == page(), "run python -m netspacectl.reference"

    @pytest.mark.parametrize("words", VERBS)
    def test_it_has_every_command_with_its_options_and_an_example(self, words: str) -> None:
        section = PAGE.read_text().partition(f"# {PROGRAM} {words}\n")[2].partition("\n##")[0]
        for param in VERBS[words].params:
            if isinstance(param, click.Option) and not (param.name or "").startswith("global_"):
                assert all(f"`{opt} " in section or f"`{opt}`" in section for opt in param.opts)
        lines = examples(section)
        assert lines
        assert all(line.startswith(f"{PROGRAM} {words}") for line in lines)

    @pytest.mark.parametrize("line", examples(PAGE.read_text()))
    def test_its_examples_are_understood(self, line: str) -> None:
        assert parsed(line).command_path == f"{PROGRAM} {verb_of(line)}"

    def test_every_verb_is_one_of_few(self) -> None:
        assert {words for words in VERBS if words.startswith("certs ")} == {
            f"certs {whose}"
            for whose in ("ca", "server", "node", "controller", "admin", "monitor", "webhook")
        }
        assert {words for words in VERBS if words.startswith("import ")} == {
            f"import {whence}"
            for whence in ("host-local", "spiderpool", "whereabouts", "csv", "gone")
        }
        assert {
            words.split()[-1] for words in VERBS if not words.startswith(("certs ", "import "))
        } == {
            *("create", "list", "show", "change", "delete", "history"),
            *("grow", "shrink", "reserve", "unreserve", "release", "status", "completion"),
            *("plan", "apply", "export", "audit", "reclaim", "adopt", "hand-over", "unfence"),
            *("init", "token", "join", "leave", "remove", "set", "picture"),
            *("verify", "diagnose", "bench"),
        }


def verb_of(line: str) -> str:
    words = line.split()
    return next(words_ for words_ in VERBS if words[1 : 1 + len(words_.split())] == words_.split())


class TestHelp:
    @pytest.mark.parametrize("words", VERBS)
    def test_it_shows_the_examples(self, capsys: Capture, words: str) -> None:
        assert Terminal(MemoryClient()).run(*words.split(), "--help") == 0
        shown = capsys.readouterr().out
        assert f"  Examples:\n    {PROGRAM} {words}" in shown

    def test_no_short_help_is_cut_off(self, capsys: Capture) -> None:
        for words in ("", *{words.split()[0] for words in VERBS if " " in words}):
            assert Terminal(MemoryClient()).run(*words.split(), "--help") == 0
            assert "..." not in capsys.readouterr().out.partition("Commands:")[2]

    def test_the_version_is_shown(self, capsys: Capture) -> None:
        assert Terminal(MemoryClient()).run("--version") == 0
        assert re.fullmatch(r"netspacectl \d+\.\d+\.\d+\n", capsys.readouterr().out)


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_script_asks_this_program(self, capsys: Capture, shell: str) -> None:
        assert Terminal(MemoryClient()).run("completion", shell) == 0
        script = capsys.readouterr().out
        assert f"_NETSPACECTL_COMPLETE={shell}_complete" in script
        assert "%(" not in script

    def test_bash_understands_the_script_and_completes_with_it(
        self, capsys: Capture, tmp_path: Path
    ) -> None:
        assert Terminal(MemoryClient()).run("completion", "bash") == 0
        script = capsys.readouterr().out
        program = tmp_path / PROGRAM
        program.write_text(f"#!{sys.executable}\nfrom netspacectl.main import main\nmain()\n")
        program.chmod(0o755)
        words = (
            f"COMP_WORDS=({PROGRAM} pool sh)\nCOMP_CWORD=2\n_{PROGRAM}_completion {PROGRAM}\n"
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        ended = subprocess.run(
            ["bash", "-c", f"{script}\n{words}"],
            capture_output=True,
            text=True,
            timeout=30,
            env={
                "PATH": f"{tmp_path}:/usr/bin:/bin",
                "PYTHONPATH": str(PAGE.parent.parent),
            },
        )
        assert ended.stdout.split() == ["show", "shrink"], ended.stderr

    @pytest.mark.parametrize(
        ("line", "completed"),
        [
            ("pool show", ["tenant-a", "tenant-b"]),
            ("pool create x --network", ["vlan910"]),
            ("-c east address list --pool", ["tenant-a", "tenant-b"]),
            ("cluster show", ["east"]),
            ("pool list -c", ["east"]),
        ],
    )
    def test_names_come_from_the_server(self, line: str, completed: list[str]) -> None:
        assert self.completed(self.server(), line) == completed
        assert self.completed(self.server(), line, "nosuch") == []

    def test_the_cluster_on_the_line_is_the_one_asked(self) -> None:
        client = self.server()
        self.completed(client, "-c west pool show")
        self.completed(client, "pool change -c north")
        assert client.asked == [("pools", "west"), ("pools", "north")]

    def test_a_server_that_is_away_completes_to_nothing(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        client = self.server()
        client.problem = OSError("gone")
        assert self.completed(client, "pool show") == []
        assert capfd.readouterr() == ("", "")

    def test_a_server_that_hangs_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        client = self.server()

        async def hangs(_: str) -> list[object]:
            await asyncio.sleep(60)
            return []

        monkeypatch.setattr(client, "pools", hangs)
        monkeypatch.setattr("netspacectl.complete.PATIENCE", PATIENCE / 20)
        assert self.completed(client, "pool show") == []

    def server(self) -> MemoryClient:
        client = MemoryClient("east")
        client.network_table["vlan910"] = network()
        client.pool_table = {name: pool(name=name) for name in ("tenant-b", "tenant-a")}
        return client

    def completed(self, client: MemoryClient, line: str, incomplete: str = "") -> list[str]:
        completer = ShellComplete(cli, {"obj": Terminal(client).app()}, PROGRAM, "X")
        return [item.value for item in completer.get_completions(line.split(), incomplete)]


class TestStart:
    @pytest.mark.parametrize(
        ("arguments", "unwanted"),
        [
            (
                ["--version"],
                {"rich", "yaml", "asyncio", "netspace.messages", "netspacectl.commands"},
            ),
            (["pool", "list", "--nosuch"], {"rich", "yaml", "h11", "pydantic"}),
            (
                ["pool", "list", "--server", "unix:///nowhere/at.all"],
                {"rich", "yaml", "pydantic", "grpc", "statestore"},
            ),
        ],
    )
    def test_nothing_is_imported_that_is_not_needed(
        self, arguments: list[str], unwanted: set[str]
    ) -> None:
        program = (
            "import sys\nfrom netspacectl.main import run\nfrom netspacectl.app import App\n"
            f"run({arguments!r}, App())\nprint(*sys.modules, file=sys.__stdout__)"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
        )
        assert ended.returncode == 0, ended.stderr
        assert unwanted & set(ended.stdout.split()) == set()
