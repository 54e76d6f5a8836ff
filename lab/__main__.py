"""The commands of ./run. Runs before anything is installed: standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lab import (
    image,
    kernel,
    launcher,
    lint,
    package,
    packages,
    probe,
    processes,
    programs,
    setup,
    standing,
    testing,
)


@dataclass(frozen=True)
class Command:
    """One command of ./run: what follows its name, one line of help, what it does."""

    usage: str
    help: str
    run: Callable[[list[str]], int]


USAGE = 26
"""Columns of the usages in the help; after a longer one the help begins on the next line."""


def demo(arguments: list[str]) -> int:
    """Run a demo directly where the kernel has what it needs, else in the lab kernel.

    With --keep the lab stays until --end: its namespaces on the machine, or
    the lab kernel in the background.
    """
    machine = _set_up()
    if programs.lookup(launcher.COMPILER):
        setup.ensure(packages.BUILD)
    module, direct = "lab.demo", machine.bonds
    if arguments[:1] == ["federation"]:
        setup.ensure(packages.IPSEC)
        module, arguments = "lab.federation.demo", arguments[1:]
        direct = direct and machine.esp
    command = [str(programs.PYTHON), "-m", module, *arguments]
    if direct:
        return subprocess.run(command, env=programs.environment()).returncode
    if arguments == ["--end"]:
        standing.end()
        return 0
    setup.ensure(packages.LAB_KERNEL)
    print(testing.in_lab_kernel(machine), flush=True)
    return standing.start(command) if "--keep" in arguments else kernel.run(command)


def test(arguments: list[str]) -> int:
    machine = _set_up()
    setup.ensure((*packages.BENCH, *packages.METRICS, *packages.BUILD, *packages.CLOCK))
    setup.ensure(packages.IPSEC)
    if machine.namespaces:
        setup.ensure((*packages.RUNTIMES, *packages.PACKAGE, *packages.KUBERNETES))
    return testing.run(arguments)


def lint_all(arguments: list[str]) -> int:
    if arguments:
        return _refuse(f"lint takes no arguments, not {arguments[0]!r}")
    setup.ensure(packages.LINT)
    return lint.run()


def lab(arguments: list[str]) -> int:
    """Run a command in the lab that stands, else in a lab kernel for it alone."""
    machine = _set_up()
    if standing.stands():
        return standing.execute(arguments) if arguments else _refuse("lab: name a command")
    if machine.bonds and arguments:
        return subprocess.run(arguments, env=programs.environment()).returncode
    setup.ensure(packages.LAB_KERNEL)
    return kernel.main(arguments or ["bash"])


def soak(arguments: list[str]) -> int:
    """Run the soak: processes of its own, in network namespaces of its own or on loopback."""
    setup.ensure(packages.COMMON)
    command = [str(programs.PYTHON), "-m", "soak", *arguments]
    return subprocess.run(command, env=programs.environment()).returncode


def bench(arguments: list[str]) -> int:
    """Run a bench: on loopback, the node's in network namespaces of its own, too, the federation's
    where the demo of federations runs."""
    what, *options = arguments or [""]
    needs = {
        "server": packages.BENCH,
        "node": packages.BUILD,
        "federation": (*packages.BUILD, *packages.IPSEC),
    }
    if what not in needs:
        return _refuse(f"bench: no bench {what!r}; there are {', '.join(needs)}")
    setup.ensure((*packages.COMMON, *needs[what]))
    command = [str(programs.PYTHON), "-m", f"bench.{what}", *options]
    machine = probe.kernel()
    if what == "federation" and not (machine.bonds and machine.esp):
        setup.ensure(packages.LAB_KERNEL)
        print(testing.in_lab_kernel(machine), flush=True)
        return kernel.run(command, writable=_folders_of(options))
    return subprocess.run(command, env=programs.environment()).returncode


def _folders_of(options: list[str]) -> list[Path]:
    """The folders that a bench is told to write into."""
    split = [word for option in options for word in option.split("=", 1)]
    given = [(name, Path(after).resolve()) for name, after in pairwise(split)]
    return [path.parent for name, path in given if name in ("--json", "--autopsy")]


def make_packages(arguments: list[str]) -> int:
    setup.ensure(packages.BUILD)
    return package.run(arguments)


def make_images(arguments: list[str]) -> int:
    setup.ensure((*packages.COMMON, *packages.BUILD, *packages.PACKAGE))
    return image.run(arguments)


def set_up(arguments: list[str]) -> int:
    if arguments:
        return _refuse(f"setup takes no arguments, not {arguments[0]!r}")
    machine = _set_up()
    where = "directly" if machine.bonds else "in the lab kernel"
    print(f"Ready. The demo runs {where} here: ./run demo")
    return 0


def show_help(_arguments: list[str]) -> int:
    print(help_text())
    return 0


COMMANDS = {
    "demo": Command(
        "[federation] [--keep | --end]",
        "the main job on two nodes, or three clusters joined (--verbose: with all there is to see);"
        " --keep leaves the lab standing until --end",
        demo,
    ),
    "test": Command("[PYTEST ARGUMENTS]", "every test, or those that are named", test),
    "lint": Command("", "code, types, layers and shell scripts", lint_all),
    "lab": Command(
        "[COMMAND]", "a command in the lab that stands, else in a lab kernel of its own", lab
    ),
    "soak": Command(
        "[--minutes N] [--seed S] [--servers 3] [--members 3] [--check FILE]",
        "clients, servers and etcd under faults, and a checker of what came of it",
        soak,
    ),
    "bench": Command(
        "server|node|federation [--json FILE] [--quick] [--rows NAME...] [--autopsy FOLDER]",
        "the server (--rows: of it), a pod's interface (as root) or joined clusters, beside goals"
        " (--autopsy: what these had where it fails)",
        bench,
    ),
    "package": Command("[--out DIR]", "a Debian package and a tarball", make_packages),
    "image": Command(
        "[--out DIR]", "the container images for Kubernetes, as one archive (as root)", make_images
    ),
    "setup": Command("", "bring what is missing; the others do it by themselves", set_up),
    "help": Command("", "this text", show_help),
}


def help_text() -> str:
    lines = ["usage: ./run COMMAND", ""]
    for name, command in COMMANDS.items():
        usage = f"{name} {command.usage}".strip()
        gap = " " if len(usage) <= USAGE else f"\n{'':<{USAGE + 3}}"
        lines.append(f"  {usage:<{USAGE}}{gap}{command.help}")
    lines += [
        "",
        "What is missing is brought into this folder (.venv, .lab); nothing is installed on",
        "the machine and its network is left alone. Root is not needed.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    name, *arguments = argv or ["help"]
    command = COMMANDS.get("help" if name in ("-h", "--help") else name)
    if command is None:
        return _refuse(f"no command {name!r}; there are {', '.join(COMMANDS)}")
    # So that what was started is ended and what was made is removed.
    processes.end_on_signals()
    os.chdir(programs.CLONE)
    try:
        return command.run(arguments)
    except (packages.SetupError, programs.ProgramMissing, kernel.LabKernelError) as error:
        print(f"./run {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _set_up() -> probe.Kernel:
    """Bring what the demo and the tests need on this machine; return what its kernel can."""
    setup.ensure(packages.COMMON)
    machine = probe.kernel()
    if not machine.bonds:
        setup.ensure(packages.LAB_KERNEL)
    return machine


def _refuse(reason: str) -> int:
    print(f"./run: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
