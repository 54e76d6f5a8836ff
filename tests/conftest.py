"""What every test has: the clone's programs in PATH, and a reason where it cannot run.

A folder says what its tests need: `unit` nothing, `etcd` the etcd program,
`kernel` network namespaces of the kernel under this process, `lab` bonds and
VLANs too, `runtime` container runtimes and cgroups, `package` root, `kubernetes` a
real Kubernetes. `./run test` starts `kernel` and `lab` in the lab kernel where this one
does not do, so a skip for these reasons comes from calling pytest by hand.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from lab import probe, programs
from tests.kubernetes import binaries
from tests.runtime import cgroups

os.environ.update(programs.environment())

# Examples have no deadline of their own: the lab kernel is one slow processor.
settings.register_profile(
    "netspace",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("netspace")

_TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Programs that run inside a test set up the log as their process's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if root.level != level:
        root.setLevel(level)
    if root.handlers != handlers:
        root.handlers[:] = handlers


def _cannot_run(folder: str) -> str:
    """Return why tests of `folder` cannot run here, or nothing."""
    if folder == "etcd" and programs.lookup("etcd") is None:
        return "needs etcd: ./run setup brings it"
    if folder == "kernel" and (reason := probe.kernel().no_namespaces):
        return f"needs network namespaces ({reason}): ./run test runs it in the lab kernel"
    if folder == "lab" and (reason := probe.kernel().no_bonds):
        return f"needs bonds and VLANs ({reason}): ./run test runs it in the lab kernel"
    if folder == "package" and (reason := probe.kernel().no_namespaces):
        return f"needs root and namespaces for a system of its own ({reason})"
    if folder == "kubernetes" and (reason := binaries.missing()):
        return reason
    if folder == "runtime" and (reason := cgroups.missing()):
        return reason
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for folder in {item.path.relative_to(_TESTS).parts[0] for item in items}:
        if reason := _cannot_run(folder):
            for item in items:
                if item.path.relative_to(_TESTS).parts[0] == folder:
                    item.add_marker(pytest.mark.skip(reason=reason))
