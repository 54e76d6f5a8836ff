"""Who this server is to other clusters: its certificates, and the contexts of the second door.

The name that is asked for chooses the federation (RFC 6066, section 3). Each federation trusts its
present members' own authorities and nothing else, so whoever was put out is let in no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec

from federation.server import authority
from federation.server.authority import Key, Signed
from federation.server.files import What
from federation.server.place import Place, member_of, record_of
from federation.server.state import FederationRecord, State, unread
from netspace.asking import path
from netspace.http_client import HttpClient
from netspace.messages.federating import Certificate, Signing
from netspace.problems import Problem
from netspace.tls import Contexts, bare_context

log = logging.getLogger(__name__)

LOOK: Final = 5.0
"""Seconds between two looks at certificates when nothing was heard."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """What this server shows in a federation. `made`: of which certificate and authorities."""

    signed: Signed
    context: ssl.SSLContext
    made: tuple[str, ...]


class Identity:
    """`run` keeps everything as it must be until cancelled. It is what the second door takes its
    contexts from."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._shown: dict[str, _Shown] = {}
        self.faults: dict[str, str] = {}
        self._base = _trusting(ssl.PROTOCOL_TLS_SERVER, ())
        self._base.verify_mode = ssl.CERT_OPTIONAL
        self._base.sni_callback = self._chosen

    @property
    def context(self) -> ssl.SSLContext:
        """Of the second door."""
        return self._base

    def expires(self) -> dict[str, int]:
        """When the certificates of this server end, by federation."""
        return {name: shown.signed.expires for name, shown in self._shown.items()}

    def shown(self, federation: str) -> Signed | None:
        shown = self._shown.get(federation)
        return None if shown is None else shown.signed

    def towards(self, federation: str, ca: str) -> Contexts:
        """For asking the servers of the member whose authority this is."""
        return _Towards(self._place, federation, ca)

    def _chosen(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        shown = self._shown.get(name or "")
        if shown is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = shown.context
        return None

    async def run(self) -> None:
        mirror = self._place.mirror
        while True:
            revision = mirror.state.revision
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    # Also whatever came while it looked, and that another server has a key now.
                    await mirror.reached(revision + 1)

    async def look(self) -> None:
        """Sees to every federation that there is, and forgets those that there were."""
        if not self._place.mirror.known.is_set():
            return
        state = self._place.mirror.state
        kept = {*state.federations, *unread(state)}
        for name in self._shown.keys() - kept:
            del self._shown[name]
            self.faults.pop(name, None)
            self._place.folder.forget(name)
        for name, record in tuple(state.federations.items()):
            try:
                await self._see_to(name, record)
                self.faults.pop(name, None)
            except Problem as problem:
                if self.faults.get(name) != str(problem):
                    log.warning("no certificate for %s yet", name, extra={"why": str(problem)})
                self.faults[name] = str(problem)
            except Exception as error:
                # The others' certificates are not to wait for it.
                log.exception("no certificate for %s yet", name)
                self.faults[name] = f"federation {name}: no certificate: {error}"

    async def _see_to(self, name: str, record: FederationRecord) -> None:
        place = self._place
        own = member_of(record, place.cluster)
        if own is None:
            return
        pem = self._stored(name)
        if pem is None or not pem.endswith(own.ca) or authority.span(pem).renew < time.time():
            key = place.folder.own_key(name, "server")
            asked = Signing(
                kind="server",
                csr=authority.request(key, place.config.name),
                cluster=place.cluster,
                node=place.config.name,
            )
            try:
                signed = await self.sign(name, asked)
            except Problem:
                if pem is None or authority.span(pem).expires < time.time():
                    raise
            else:
                pem = signed.certificate + own.ca
                place.folder.write(place.folder.certificate(name), pem.encode())
        assert pem is not None
        made = (pem, *(each.ca for each in record.federation.members))
        shown = self._shown.get(name)
        if shown is None or shown.made != made:
            context = _trusting(ssl.PROTOCOL_TLS_SERVER, made[1:])
            context.verify_mode = ssl.CERT_OPTIONAL
            _load(context, place, name)
            self._shown[name] = _Shown(authority.span(pem), context, made)

    def _stored(self, name: str) -> str | None:
        """The certificate that there is; one that cannot be read is made anew."""
        try:
            pem = self._place.folder.certificate(name).read_text()
            authority.span(pem)
        except (OSError, ValueError, Problem):
            return None
        return pem

    async def sign(self, federation: str, asked: Signing) -> Certificate:
        """A signature by this server, or by another one of the cluster that has the key."""
        place = self._place
        state = place.state
        signed = self.sign_here(state, federation, asked)
        if signed is not None:
            return signed
        failures: list[str] = []
        for server in state.servers.values():
            if server.name != place.config.name and federation in server.keys:
                target = path("clusters", place.cluster, "federations", federation, "signatures")
                try:
                    answer = await place.client(server.endpoint).request(
                        "POST", target, msgspec.json.encode(asked), repeat=True
                    )
                    return msgspec.json.decode(answer, type=Certificate)
                except Problem as problem:
                    failures.append(f"{server.name}: {problem}")
                except msgspec.DecodeError as error:
                    failures.append(f"{server.name}: its answer cannot be understood: {error}")
        raise Problem(
            "unavailable",
            f"no server that runs has the key of federation {federation}"
            + "".join(f"; {failure}" for failure in failures),
            do="start the server that has it, or copy its folder in state_dir to another one",
        )

    def has_key(self, record: FederationRecord) -> bool:
        """Whether this server has the key of the cluster's own authority in a federation."""
        own = member_of(record, self._place.cluster)
        try:
            return own is not None and self._key(record, "authority", own.ca) is not None
        except Problem:
            return False

    def _key(self, record: FederationRecord, what: What, ca: str) -> Key | None:
        """The key of an authority. One that is left over, of a federation that was deleted or a
        join that failed, is none."""
        key = self._place.folder.key(record.federation.name, what)
        return key if key is not None and authority.is_of(ca, key) else None

    def sign_here(self, state: State, federation: str, asked: Signing) -> Certificate | None:
        """A signature by this server; None where it has not the key."""
        record = record_of(state, federation)
        root = record.federation.root
        life = timedelta(seconds=self._place.config.times.certificate)
        if asked.kind == "authority":
            key = self._key(record, "root", root)
            if key is None:
                return None
            pem = authority.sign_authority(root, key, asked.csr, federation, asked.cluster)
            signed, above = authority.span(pem), root
        else:
            own = member_of(record, self._place.cluster)
            if own is None:
                raise Problem("forbidden", f"this cluster is no member of {federation} any more")
            above = own.ca
            key = self._key(record, "authority", above)
            if key is None:
                return None
            if asked.kind == "server":
                signed = authority.sign_server(above, key, asked.csr, federation, asked.node, life)
            else:
                signed = authority.sign_node(above, key, asked.csr, asked.node, life)
        return Certificate(
            certificate=signed.pem,
            authority=above,
            root=root,
            expires=signed.expires,
            renew=signed.renew,
        )


class _Towards:
    """A client's context, made anew when this server's certificate is another one."""

    def __init__(self, place: Place, federation: str, ca: str) -> None:
        self._place = place
        self._federation = federation
        self._ca = ca
        self._made: tuple[int, ssl.SSLContext] | None = None

    @property
    def context(self) -> ssl.SSLContext:
        try:
            stamp = self._place.folder.certificate(self._federation).stat().st_mtime_ns
        except OSError:
            raise ConnectionError("this server has no certificate of the federation yet") from None
        if self._made is None or self._made[0] != stamp:
            context = _trusting(ssl.PROTOCOL_TLS_CLIENT, (self._ca,))
            _load(context, self._place, self._federation)
            self._made = (stamp, context)
        return self._made[1]


class _Fixed:
    """A context that stays."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context


def stranger(endpoints: list[str], federation: str, root: str | None) -> HttpClient:
    """Asks as somebody who has no certificate yet: with the root whoever it signed for, and without
    it anybody."""
    context = _trusting(ssl.PROTOCOL_TLS_CLIENT, () if root is None else (root,))
    if root is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return HttpClient(endpoints, tls=_Fixed(context), name=federation)


def _trusting(protocol: int, authorities: tuple[str, ...]) -> ssl.SSLContext:
    """What the authorities signed is trusted, and nothing above them."""
    context = bare_context(protocol)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if authorities:
        context.load_verify_locations(cadata="\n".join(authorities))
    return context


def _load(context: ssl.SSLContext, place: Place, federation: str) -> None:
    folder = place.folder
    try:
        context.load_cert_chain(
            folder.certificate(federation), folder.key_file(federation, "server"), password=""
        )
    except (OSError, ValueError) as error:
        # ssl.SSLError is an OSError.
        raise Problem(
            "internal",
            f"{folder.of(federation)}: server.pem and server.key cannot be used: {error}",
            do="remove both: they are made anew",
        ) from None
