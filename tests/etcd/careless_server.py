"""netspace-server with one rule broken: a release frees what its attachment holds, whichever claim
or generation it names. The soak has to notice."""

from __future__ import annotations

from ipam_server import allocations
from ipam_server.inventory import Held
from ipam_server.main import main
from netspace.messages import ReleaseRequest


def not_held(held: Held | None, request: ReleaseRequest) -> str | None:
    return "the attachment holds nothing" if held is None else None


if __name__ == "__main__":
    allocations._not_held = not_held
    main()
