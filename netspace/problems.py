"""Everything that can be wrong, in one table: the domain's one exception and its form on the wire.

A `Problem` says what happened, to which thing, why, and what to do. Over HTTP it is a JSON problem
(RFC 9457); the CNI plugins turn its code into a CNI error code, the CLI into an exit status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:netspace:problem:"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. `again`: the same request may succeed later without any change."""

    code: str
    status: int
    title: str
    again: bool = False


_KINDS = (
    # What was asked cannot be read or makes no sense.
    Kind("bad-request", 400, "The request is not well formed"),
    Kind("invalid", 422, "A value is not acceptable"),
    Kind("too-slow", 408, "The request did not arrive in time", again=True),
    Kind("too-large", 413, "The request is larger than the server takes"),
    Kind("target-too-long", 414, "The request's first line is longer than the server takes"),
    Kind("header-too-large", 431, "The request's header is larger than the server takes"),
    Kind("not-found", 404, "There is no such thing"),
    Kind("method-not-allowed", 405, "The resource does not take this method"),
    Kind("forbidden", 403, "The caller may not do this"),
    # What was asked contradicts what there is.
    Kind("exists", 409, "A thing of this name exists already"),
    Kind("in-use", 409, "The thing is in use"),
    Kind("overlap", 409, "Address ranges overlap"),
    Kind("no-space", 409, "There is not enough free address space"),
    Kind("changed", 409, "The thing was changed by somebody else meanwhile", again=True),
    Kind("owned", 409, "The thing is somebody else's to change"),
    # Why a pod gets no address.
    Kind("pool-unknown", 404, "The pool does not exist"),
    Kind("pool-forbidden", 403, "The namespace may not use the pool"),
    Kind("pool-missing", 409, "There is no pool to take an address from"),
    Kind("pool-exhausted", 409, "The pool has no free address"),
    Kind("pool-cooling", 503, "The pool's free addresses are in cool-down", again=True),
    Kind("address-taken", 409, "The address is taken"),
    Kind("address-cooling", 503, "The address is in cool-down", again=True),
    Kind("address-held", 503, "The pod's predecessor holds its address", again=True),
    Kind("address-unusable", 409, "The address cannot be given to a pod"),
    Kind("family-missing", 409, "The network has no addresses of the family"),
    Kind("claim-released", 409, "The claim has been released already"),
    # The server cannot answer now.
    Kind("not-leader", 503, "The server does not lead the cluster", again=True),
    Kind("busy", 503, "The server has too much to do", again=True),
    Kind("unavailable", 503, "The server cannot be reached", again=True),
    Kind("state-unavailable", 503, "The state store cannot be reached", again=True),
    Kind("state-full", 507, "The state store is out of space", again=True),
    Kind("outcome-unknown", 504, "It is not known whether the change was made", again=True),
    Kind("internal", 500, "The server failed"),
)

KINDS: Final[dict[str, Kind]] = {kind.code: kind for kind in _KINDS}


class ProblemDocument(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The JSON form, media type `application/problem+json`; members as in RFC 9457, section 3.1.

    `code` is the last part of `type`; `do` says what to do; `retry_after` is in seconds; `errors`
    lists every fault of an invalid document with its path.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    do: str = ""
    retry_after: float | None = None
    errors: list[str] = []


class Problem(Exception):
    """Something a person or a program must be told. `code` is a key of `KINDS`.

    `detail` says what, which and why in one line; `do` what to do about it; `retry_after` after how
    many seconds the same request may succeed, where that is known.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        do: str = "",
        retry_after: float | None = None,
        errors: tuple[str, ...] = (),
    ) -> None:
        super().__init__(detail)
        self.kind = KINDS[code]
        self.detail = detail
        self.do = do
        self.retry_after = retry_after
        self.errors = errors

    @property
    def code(self) -> str:
        return self.kind.code

    @property
    def again(self) -> bool:
        """Whether the same request may succeed later without any change."""
        return self.kind.again

    def __str__(self) -> str:
        return f"{self.detail}: {self.do}" if self.do else self.detail

    def document(self) -> ProblemDocument:
        """The form on the wire."""
        return ProblemDocument(
            type=TYPE_PREFIX + self.code,
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            code=self.code,
            do=self.do,
            retry_after=self.retry_after,
            errors=list(self.errors),
        )

    def encode(self) -> bytes:
        """The JSON problem."""
        return msgspec.json.encode(self.document())

    @classmethod
    def decode(cls, status: int, body: bytes) -> Problem:
        """The problem in an answer; `internal` for a body that is none of ours."""
        try:
            document = msgspec.json.decode(body, type=ProblemDocument)
        except msgspec.DecodeError:
            text = body[:200].decode(errors="replace")
            return cls("internal", f"the server answered {status} without saying why: {text!r}")
        return cls.of(document)

    @classmethod
    def of(cls, document: ProblemDocument) -> Problem:
        """The problem of a document; `internal` for a code that is none of ours."""
        code = document.code if document.code in KINDS else "internal"
        return cls(
            code,
            document.detail,
            do=document.do,
            retry_after=document.retry_after,
            errors=tuple(document.errors),
        )


def invalid(what: str, why: Any, *, do: str = "") -> Problem:
    """The problem of one unacceptable value."""
    return Problem("invalid", f"{what}: {why}", do=do)
