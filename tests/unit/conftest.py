"""The node that tests of the CNI operations have."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cni_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A node in memory but for its records, which are files."""
    return Bench(tmp_path)
