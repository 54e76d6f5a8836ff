"""All clusters that a server looks after, and the fabrics their networks lie in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from ipam_server import keys, views
from ipam_server.audit import tell
from ipam_server.audit_pages import Said, audit_page, forget_oldest, remembered
from ipam_server.batching import Room
from ipam_server.leading import LeaderRecord
from ipam_server.peers import Peers
from ipam_server.records import ClusterRecord, FabricRecord
from ipam_server.service import ClusterService
from ipam_server.term import Limits
from netspace import __version__
from netspace import messages as m
from netspace.callers import current
from netspace.http_client import HttpClient
from netspace.passing import LOOK
from netspace.problems import Problem
from statestore import (
    Compare,
    Delete,
    Get,
    KeyValue,
    MemberStatus,
    OutcomeUnknown,
    OutOfSpace,
    Put,
    SnapshotPage,
    Store,
    StoreError,
    Txn,
    again_and_again,
)

log = logging.getLogger(__name__)

PAUSE = 0.2
"""Seconds between two attempts to learn what became of a write."""


class Directory:
    """The way in for everything that is asked of a server. `open` it, then `close` it. `members`:
    what the state store's members said when the status was last asked for."""

    def __init__(self, store: Store, peers: Peers, ttl: int, limits: Limits) -> None:
        self.peers = peers
        self.server = peers.me.name
        self.members: tuple[MemberStatus, ...] = ()
        self.room = Room(limits.max_waiting)
        self._store = store
        self._ttl = ttl
        self._limits = limits
        self._services: dict[str, ClusterService] = {}
        self._ending: set[ClusterService] = set()
        # Etcd's history and the revision at which this server made or deleted a cluster itself,
        # until the catalogue is followed as far as there; what stood there before is no news.
        self._own_word: dict[str, tuple[int, int]] = {}
        self._known = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        store: Store,
        server: str,
        ttl: int,
        limits: Limits,
        *,
        endpoint: str = "",
        client: Callable[[str], HttpClient] = lambda endpoint: HttpClient([endpoint]),
    ) -> Directory:
        """Starts to follow which clusters there are, and to campaign for each. `server` is the name
        this server leads under, `ttl` how many seconds it may fall silent, `endpoint` where the
        other servers reach it, `client` how it reaches them."""
        me = LeaderRecord(name=server, endpoint=endpoint)
        directory = cls(store, Peers(store, me, ttl, client, limits.timeout), ttl, limits)
        directory._watching = asyncio.create_task(directory._follow(), name="catalogue")
        directory.peers.register()
        return directory

    async def retire(self) -> None:
        """Finishes what is under way and gives every leadership up; what is asked from then on is
        for other servers, to which `forwarding` passes it."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*(service.retire() for service in self._services.values()))

    async def close(self) -> None:
        """Ends everything."""
        await self.retire()
        await asyncio.gather(
            *(service.close() for service in (*self._services.values(), *self._ending))
        )
        await self.peers.close()

    def cluster(self, name: str) -> ClusterService:
        """The service of a cluster."""
        if name in self._services:
            return self._services[name]
        if not self._known.is_set():
            raise Problem(
                "state-unavailable", "the clusters have not been read from etcd yet", retry_after=1
            )
        raise Problem(
            "not-found",
            f"there is no cluster {name}",
            do=f"create it with netspacectl cluster create {name}",
        )

    @property
    def services(self) -> tuple[ClusterService, ...]:
        """The services of all clusters, for reading figures."""
        return tuple(self._services.values())

    # Clusters

    async def clusters(self) -> list[m.Cluster]:
        return [await self.cluster_info(name) for name in sorted(self._services)]

    async def cluster_info(self, name: str) -> m.Cluster:
        service = self.cluster(name)
        _ = service.state  # before it was read once there is nothing to tell
        status = await service.status()
        return m.Cluster(
            name=name,
            leader=status.leader,
            networks=status.networks,
            pools=status.pools,
            used=status.used,
        )

    async def create_cluster(self, new: m.NewCluster) -> m.Cluster:
        """Answers when the cluster is led, so that what follows can be asked at once."""
        put = Put(keys.catalogue(new.name), msgspec.json.encode(ClusterRecord(name=new.name)))
        said: Said = ("cluster", new.name, "create")
        made = await self._write((Compare.absent(put.key),), put, said)
        if made is None:
            raise Problem("exists", f"cluster {new.name} exists already")
        self._own_word[new.name] = self._store.history, made
        self._start(new.name)
        try:
            async with asyncio.timeout(self._limits.timeout):
                service = self._services[new.name]
                while not service.leading and service.elsewhere() is None:
                    await service.moved(LOOK)
        except TimeoutError:
            log.warning("cluster %s was made, but is not led yet", new.name)
        return await self.cluster_info(new.name)

    async def delete_cluster(self, name: str) -> None:
        """Refused while the cluster has networks."""
        service = self.cluster(name)
        await service.dissolve()
        self._own_word[name] = self._store.history, service.state.revision
        await self._stop(service)
        await self._write((), Delete(keys.Keys(name).clock))
        with self._told():
            await self._store.delete_prefix(keys.Keys(name).histories)

    # Fabrics

    async def fabrics(self) -> list[m.Fabric]:
        found = []
        with self._told():
            async with contextlib.aclosing(self._store.pages(keys.FABRICS)) as pages:
                async for page in pages:
                    found += [_fabric(kv) for kv in page.items]
        return [views.fabric(record) for record in found]

    async def fabric(self, name: str) -> m.Fabric:
        return views.fabric((await self._fabric(name))[0])

    async def create_fabric(self, new: m.NewFabric) -> m.Fabric:
        put = Put(keys.fabric(new.name), msgspec.json.encode(FabricRecord(name=new.name)))
        said: Said = ("fabric", new.name, "create")
        if await self._write((Compare.absent(put.key),), put, said) is None:
            raise Problem("exists", f"fabric {new.name} exists already")
        return await self.fabric(new.name)

    async def delete_fabric(self, name: str) -> None:
        """Refused while networks lie in it."""
        record, stored = await self._fabric(name)
        if record.members:
            shown = ", ".join(f"{member.cluster}/{member.network}" for member in record.members[:5])
            raise Problem(
                "in-use",
                f"{len(record.members)} networks lie in fabric {name}: {shown}",
                do="delete them first",
            )
        compares = (Compare.modified_at(stored.key, stored.mod_revision),)
        said: Said = ("fabric", name, "delete")
        if await self._write(compares, Delete(stored.key), said) is None:
            raise Problem("changed", f"fabric {name} was changed meanwhile", do="ask again")

    async def _fabric(self, name: str) -> tuple[FabricRecord, KeyValue]:
        with self._told():
            stored = await self._store.get(keys.fabric(name))
        if stored is None:
            raise Problem("not-found", f"there is no fabric {name}")
        return _fabric(stored), stored

    async def audit(self, limit: int, after: str | None) -> m.AuditPage:
        """Clusters and fabrics that were made and deleted, oldest first."""
        return await audit_page(self._store, keys.AUDIT, limit, after)

    # Status

    async def status(self) -> m.Status:
        """Ready: the clusters are known, each is led by somebody, and an etcd member answers. A
        leader of this server's name that is not this process is its past."""
        clusters = await asyncio.gather(*(service.status() for service in self._services.values()))
        self.members = members = await self._store.status()
        try:
            servers = await self.peers.servers(self.own_status())
        except StoreError:
            servers = [self.own_status()]
        ready = (
            self._known.is_set()
            and all(
                cluster.leader is not None and (cluster.leading or cluster.leader != self.server)
                for cluster in clusters
            )
            and any(not member.error for member in members)
        )
        return m.Status(
            version=__version__,
            server=self.server,
            ready=ready,
            clusters=list(clusters),
            servers=servers,
            store=[
                m.StoreMember(
                    endpoint=member.endpoint,
                    version=member.version or None,
                    size=member.database_bytes,
                    leader=member.leader,
                    error=member.error or None,
                )
                for member in members
            ],
        )

    def own_status(self) -> m.ServerStatus:
        """This server alone; nothing is asked for."""
        return m.ServerStatus(
            name=self.server,
            endpoint=self.peers.me.endpoint,
            version=__version__,
            clusters=[service.local_status() for service in self._services.values()],
        )

    # Following the catalogue

    async def _follow(self) -> None:
        await again_and_again(self._follow_once, "the catalogue of clusters")

    async def _follow_once(self) -> None:
        """Keeps a service running for every cluster that the catalogue has, and for no other."""
        listed, history = set[str](), self._store.history
        async with contextlib.aclosing(self._store.watch(keys.CATALOGUE)) as changes:
            async for change in changes:
                if isinstance(change, SnapshotPage):
                    if change.first:
                        listed, history = set(), self._store.history
                    listed |= {_name(kv.key) for kv in change.items}
                    if not change.last:
                        continue
                    there, gone = listed, self._services.keys() - listed
                else:
                    there = {_name(event.key) for event in change.events if event.kind == "put"}
                    gone = {_name(event.key) for event in change.events} - there
                at = history, change.revision
                for name in self._news(gone, at) & self._services.keys():
                    await self._stop(self._services[name])
                for name in self._news(there, at):
                    self._start(name)
                self._known.set()
                self._own_word = {n: word for n, word in self._own_word.items() if word > at}

    def _news(self, names: set[str], at: tuple[int, int]) -> set[str]:
        """Of these clusters the ones of which this server has no word of its own that is newer."""
        return {name for name in names if self._own_word.get(name, at) <= at}

    def _start(self, name: str) -> None:
        if name not in self._services:
            service = ClusterService(self._store, name, self.peers.me, self._ttl, self._limits)
            self._services[name] = service
            service.start()

    async def _stop(self, service: ClusterService) -> None:
        """Returns when it has ended, and its leader's key is gone, whoever else ends it as well."""
        if self._services.get(service.name) is service:
            del self._services[service.name]
        self._ending.add(service)
        await service.close()
        self._ending.discard(service)

    # Writing outside of any cluster

    async def _write(
        self,
        compares: tuple[Compare, ...],
        op: Put | Delete,
        said: Said | None = None,
    ) -> int | None:
        """The revision, or None if the comparison did not hold. A lost answer is asked for again:
        what stands there then tells whether it was this write. `said`: kind, name and action, to
        be remembered in the same transaction."""
        if said is None:
            return await self._write_all(compares, op, ())
        with self._told():
            decided = await self._store.revision()
        put, entry = remembered(*said, decided, current())
        revision = await self._write_all(compares, op, (put,))
        if revision is not None:
            tell(entry, None, revision)
            with contextlib.suppress(StoreError):
                await forget_oldest(self._store)
        return revision

    async def _write_all(
        self, compares: tuple[Compare, ...], op: Put | Delete, more: tuple[Put, ...]
    ) -> int | None:
        unknown = False
        while True:
            try:
                with self._told():
                    result = await self._store.txn(Txn(compares, (op, *more), (Get(op.key),)))
            except _Unknown:
                unknown = True
            except Problem as problem:
                if not unknown or not problem.again:
                    raise
            else:
                found = () if result.succeeded else result.results[0]
                assert isinstance(found, tuple)
                landed = result.succeeded or (unknown and bool(found) == isinstance(op, Put))
                return result.revision if landed else None
            await asyncio.sleep(PAUSE)

    @contextlib.contextmanager
    def _told(self):  # type: ignore[no-untyped-def]
        """Turns the store's errors into problems."""
        try:
            yield
        except OutcomeUnknown as error:
            raise _Unknown from error
        except OutOfSpace as error:
            raise Problem("state-full", str(error)) from None
        except StoreError as error:
            raise Problem("state-unavailable", str(error), retry_after=1) from None


class _Unknown(Exception):
    """The answer to a write was lost."""


def _fabric(stored: KeyValue) -> FabricRecord:
    return msgspec.json.decode(stored.value, type=FabricRecord)


def _name(key: bytes) -> str:
    return key[len(keys.CATALOGUE) :].decode()
