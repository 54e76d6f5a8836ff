"""Frozen programs lack modules (packaging/folder.spec): what a node needs does without them."""

from __future__ import annotations

import ast
import subprocess
import sys

from lab import programs

SPEC = programs.CLONE / "packaging" / "folder.spec"
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from hostnet import KernelError, netlink, sets

netlink.load()
try:
    sets.set_names(None)
except KernelError:
    pass  # This kernel has none, or does not show them to this user.
"""


def left_out() -> list[str]:
    for statement in ast.parse(SPEC.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "UNUSED":
            return list(ast.literal_eval(statement.value))
    raise AssertionError("packaging/folder.spec names no unused modules")


def test_netlink_and_sets_need_no_module_that_is_left_out() -> None:
    code = WITHOUT.format(missing=set(left_out()))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
