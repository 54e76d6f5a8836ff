"""The executable `netspace-ipam`: the IPAM plugin."""

from __future__ import annotations

import sys

from cni_plugins.main import run


def main() -> None:
    """Serves the call and ends the process."""
    sys.exit(run("netspace-ipam"))


if __name__ == "__main__":
    main()
