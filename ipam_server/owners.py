"""Whose a network or a pool is: people's, or the Kubernetes objects' of its cluster. Pure rules.

Nobody changes what is another's: what one side changed, the other would change back.
"""

from __future__ import annotations

from netspace.callers import Caller
from netspace.messages import Owner
from netspace.problems import Problem

Kind = str
"""`network` or `pool`."""


def check_acting(caller: Caller, acting: Owner | None, what: str) -> None:
    """`Problem` forbidden where a controller acts for anybody but Kubernetes."""
    if caller.role == "controller" and acting != "kubernetes":
        raise Problem(
            "forbidden",
            f"{caller} may not {what} for people",
            do="ask with owner: kubernetes",
        )


def check_owner(kind: Kind, name: str, owner: Owner | None, acting: Owner | None) -> None:
    """`Problem` owned where the thing is not whose behalf it is to be changed on."""
    if owner == acting:
        return
    if owner == "kubernetes":
        raise Problem(
            "owned",
            f"{kind} {name} is the Kubernetes object {kind}s.ipam.netspace.io/{name}",
            do="change it with kubectl; an admin can take it over: netspacectl"
            f" {kind} hand-over {name} --to people",
        )
    raise Problem(
        "owned",
        f"{kind} {name} was made by people, not by a Kubernetes object",
        do="change it with netspacectl, or give the object another name; an admin can give it to"
        f" the object: netspacectl {kind} hand-over {name} --to kubernetes",
    )


def check_new(kind: Kind, name: str, owner: Owner | None, acting: Owner | None) -> None:
    """`Problem` for a name that is there already: owned if it is another's, else exists."""
    check_owner(kind, name, owner, acting)
    raise Problem("exists", f"{kind} {name} exists already", do="choose another name")
