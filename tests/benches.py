"""A bench's quick form, run as its users run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab import programs


def quick_bench(module: str, folder: Path, seconds: float) -> dict[str, Any]:
    """What a quick bench wrote; what it printed is under `printed`. It leaves nothing behind."""
    path = folder / "figures.json"
    before = set(programs.STATE.glob("bench-*"))
    done = subprocess.run(
        [sys.executable, "-m", module, "--quick", "--json", str(path)],
        cwd=programs.CLONE,
        env=programs.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    assert set(programs.STATE.glob("bench-*")) <= before
    return {**json.loads(path.read_text()), "printed": done.stdout}
