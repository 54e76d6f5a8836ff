"""Mutual TLS: contexts made of PEM files, renewed when the files change, and errors in words.

TLS 1.2 and newer. Who holds a certificate of the authority in `ca` is let in on either side; a
client also checks that the server's certificate names the host it meant (RFC 9525).
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from netspace.problems import Problem

log = logging.getLogger(__name__)

LOOK: Final = 2.0
"""Seconds between two looks at the files."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the authority that the other side's certificate must come from, and the own
    certificate (with whatever stands between it and the authority) and its key."""

    ca: Path
    cert: Path
    key: Path

    def files(self) -> tuple[Path, ...]:
        return self.ca, self.cert, self.key


class _Object(ssl.SSLObject):
    """asyncio drops what OpenSSL has to say when a handshake fails, so the other side never hears
    why. Here it goes along with the error, as `alert`."""

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            vars(error)["alert"] = self.outgoing.read()
            raise


class _Context(ssl.SSLContext):
    validity = (0.0, 0.0)

    def wrap_bio(self, incoming: Any, outgoing: Any, *more: Any, **others: Any) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, *more, **others)
        assert isinstance(made, _Object)
        made.outgoing = outgoing
        return made


def server_context(tls: Tls) -> ssl.SSLContext:
    """For a server that wants to see its clients' certificates. `Problem` invalid."""
    context = _made(tls, ssl.PROTOCOL_TLS_SERVER)
    _try_out(tls, context)
    return context


def open_context(tls: Tls) -> ssl.SSLContext:
    """For a server that anybody may ask, without a certificate. `Problem` invalid."""
    context = server_context(tls)
    context.verify_mode = ssl.CERT_NONE
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """For a client; it checks the server's name or address. `Problem` invalid."""
    return _made(tls, ssl.PROTOCOL_TLS_CLIENT)


def bare_context(protocol: int) -> ssl.SSLContext:
    """One without certificates, which wants to see the other side's and tells it what is wrong."""
    return _bare(protocol)


def _bare(protocol: int) -> _Context:
    context = _Context(protocol)
    context.sslobject_class = _Object
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        # Whoever came back with a ticket would not be looked at again.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _made(tls: Tls, protocol: int) -> _Context:
    context = _bare(protocol)
    for path in tls.files():
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise _unusable(path, f"it cannot be read: {error.strerror}") from None
    try:
        context.load_verify_locations(tls.ca)
    except ssl.SSLError as error:
        raise _unusable(tls.ca, f"it holds no certificate ({explained(error)})") from None
    try:
        # A password is never asked for: nobody would hear the question.
        context.load_cert_chain(tls.cert, tls.key, password="")
    except ssl.SSLError as error:
        why = f"it is no certificate for the key in {tls.key} ({explained(error)})"
        raise _unusable(tls.cert, why) from None
    except (OSError, ValueError) as error:
        raise _unusable(tls.cert, error) from None
    return context


def _try_out(tls: Tls, context: _Context) -> None:
    """Shakes hands as clients that know the authority would, and notes what they are shown."""
    try:
        shown = shown_to_others(tls, "server")
    except ssl.SSLError as error:
        why = f"clients that know {tls.ca} would not take it: {explained(error)}"
        raise _unusable(tls.cert, why) from None
    context.validity = (
        float(ssl.cert_time_to_seconds(shown["notBefore"])),
        float(ssl.cert_time_to_seconds(shown["notAfter"])),
    )


def shown_to_others(tls: Tls, role: Literal["server", "client"]) -> dict[str, Any]:
    """What the other side, which knows the authority, reads in the certificate (`getpeercert`): a
    handshake in memory, in which the certificate's owner has this role. ``ssl.SSLError`` where the
    other side would not take it, ``OSError`` where a file cannot be read."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls.cert, tls.key, password="")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    checking = server if role == "client" else client
    checking.load_verify_locations(tls.ca)
    checking.verify_mode = ssl.CERT_REQUIRED
    if role == "client":
        client.load_cert_chain(tls.cert, tls.key, password="")
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(one, other)
    answering = server.wrap_bio(other, one, server_side=True)
    for _ in range(6):
        for side in (asking, answering):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    shown: Any = (answering if role == "client" else asking).getpeercert()
    return dict(shown)


def _unusable(path: Path, why: object) -> Problem:
    return Problem("invalid", f"TLS: {path}: {why}", do=f"correct {path}")


class Contexts(Protocol):
    """Whence connections get their context: whoever takes it gets the present one."""

    @property
    def context(self) -> ssl.SSLContext: ...


class Renewed:
    """A context that follows its files: whoever takes `context` gets the present one.

    New files that cannot be used are named in the log, and the old context stays.
    """

    def __init__(self, tls: Tls, make: Callable[[Tls], ssl.SSLContext]) -> None:
        self._tls = tls
        self._make = make
        self._seen = self._look()
        self._looked = time.monotonic()
        self._context = make(tls)

    @property
    def context(self) -> ssl.SSLContext:
        """The present context; looks at the files, but not more often than every `LOOK` seconds."""
        if time.monotonic() - self._looked >= LOOK:
            self.look()
        return self._context

    def look(self) -> bool:
        """Looks at the files now; whether there is a new context."""
        self._looked = time.monotonic()
        found = self._look()
        if found == self._seen:
            return False
        self._seen = found
        try:
            self._context = self._make(self._tls)
        except Problem as problem:
            log.error("the changed TLS files are not used", extra={"why": str(problem)})
            return False
        log.info("the TLS files were read anew", extra={"cert": str(self._tls.cert)})
        return True

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        found: list[tuple[int, int, int] | None] = []
        for path in self._tls.files():
            try:
                is_now = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((is_now.st_ino, is_now.st_mtime_ns, is_now.st_size))
        return tuple(found)


_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other side showed no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other side wants a certificate and was shown none",
    "TLSV1_ALERT_UNKNOWN_CA": "the other side does not know the authority of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the other side says that our certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the other side does not take our certificate"
    " (from clients: it does not name the host they meant)",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the other side says that our certificate is not made"
    " for this use",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the other side does not take our certificate",
    "TLSV1_ALERT_DECRYPT_ERROR": "the other side could not verify our certificate's signature",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the other side broke the handshake off: it may want a"
    " certificate",
    "TLSV1_UNRECOGNIZED_NAME": "the other side is not what it was asked for as",
    "CALLBACK_FAILED": "the other side asks for a name that is not served here",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the two sides have no version of TLS in common",
    "UNSUPPORTED_PROTOCOL": "the two sides have no version of TLS in common",
    "HTTP_REQUEST": "the other side speaks HTTP without TLS",
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS",
}


def explained(error: BaseException) -> str:
    """What went wrong with TLS, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the other side's certificate is not taken: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return _REASONS.get(error.reason, error.reason.lower().replace("_", " "))
    if isinstance(error, TimeoutError):
        return "the handshake took too long"
    return str(error) or type(error).__name__


def refused(error: BaseException) -> bool:
    """Whether the other side has broken off for our certificate's sake: then it has not looked at
    anything that was said to it (RFC 8446, section 4.4: no data before the certificate)."""
    reason = getattr(error, "reason", None) or ""
    return isinstance(error, ssl.SSLError) and (
        "CERTIFICATE" in reason or reason in ("TLSV1_ALERT_UNKNOWN_CA", "TLSV1_ALERT_DECRYPT_ERROR")
    )


def validity(context: ssl.SSLContext) -> tuple[float, float]:
    """From when to when the certificate of a server's context is valid, as POSIX times."""
    assert isinstance(context, _Context)
    return context.validity
