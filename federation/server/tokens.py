"""Tokens: what lets one cluster join a federation, once and for a short time.

The text carries the federation's name, its founder, where the founder's servers are asked, and the
SHA-256 of the federation's root, so that whoever joins knows whom it speaks to. The state has the
secret's hash alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from netspace import names
from netspace.messages.federating import FederationName, Secret
from netspace.messages.federation import Endpoint
from netspace.messages.terms import Name
from netspace.problems import Problem, invalid

PREFIX: Final = "nsf1."
KEPT: Final = 86_400
"""Seconds that a token is remembered after it has expired or was used, so that it can be said."""

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}" + names.END)]


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says."""

    federation: FederationName
    founder: Name
    endpoints: Annotated[list[Endpoint], Meta(min_length=1, max_length=64)]
    root: Digest
    secret: Secret


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`expires` in Unix seconds. `used`: by which cluster, `key` of its authority."""

    expires: int
    used: str = ""
    key: str = ""


def new_secret() -> str:
    return secrets.token_hex(32)


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def encode(ticket: Ticket) -> str:
    return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(ticket)).decode().rstrip("=")


def decode(text: str) -> Ticket:
    """`Problem` invalid for what is no token."""
    text = text.strip()
    try:
        if not text.startswith(PREFIX):
            raise ValueError(f"it does not begin with {PREFIX}")
        body = text[len(PREFIX) :]
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        return msgspec.json.decode(data, type=Ticket)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise invalid(
            "token", f"it is none, or not all of it: {error}", do="copy it once more, whole"
        ) from None


def admit(record: TokenRecord | None, cluster: str, key: str, now: float) -> bool:
    """Whether the cluster may join now; False: it has joined by this token with this key already,
    and only the answer was lost. `Problem` forbidden, with the reason."""
    if record is None:
        why = "it is none of this federation's, or it was forgotten long ago"
    elif record.used == cluster and record.key == key:
        return False
    elif record.used:
        why = f"cluster {record.used} has used it already, and a token works once"
    elif record.expires < now:
        why = f"it expired {int(now - record.expires)} s ago"
    else:
        return True
    raise Problem(
        "forbidden",
        f"the token is not taken: {why}",
        do="have another one made where the federation was founded: netspacectl federation token",
    )
