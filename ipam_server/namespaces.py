"""What namespaces choose by default: taken from a cluster's controller, stored, told.

It is in the state, so that a pod gets what its namespace says while Kubernetes' API is away.
"""

from __future__ import annotations

import msgspec

from ipam_server.changes import Change
from ipam_server.hosting import Hosting
from ipam_server.inventory import Namespaced
from ipam_server.records import NamespaceRecord
from netspace.kubernetes import NamespaceDefault, SetNamespace
from netspace.messages import Selection
from netspace.problems import invalid
from statestore import Delete, Put


def recorded(selection: Selection) -> NamespaceRecord:
    """The record of a namespace's choice; `Problem` invalid for one that no namespace can make."""
    if selection.ip:
        raise invalid(
            "selection",
            f"a namespace cannot choose {', '.join(selection.ip)}: an address is for one pod",
            do="annotate the pod with ipam.com/ip",
        )
    if selection == Selection():
        raise invalid("selection", "it chooses nothing", do="delete it instead")
    return NamespaceRecord(
        netspace=selection.netspace,
        application=selection.application,
        families=selection.families,
    )


def _told(namespace: str, known: Namespaced) -> NamespaceDefault:
    return NamespaceDefault(
        namespace=namespace, revision=known.revision, selection=known.record.selection
    )


class Namespaces(Hosting):
    """See the module."""

    async def namespaces(self) -> list[NamespaceDefault]:
        return [_told(name, known) for name, known in sorted(self.state.namespaces.items())]

    async def set_namespace(self, namespace: str, asked: SetNamespace) -> NamespaceDefault:
        """Said again it changes nothing."""
        record = recorded(asked.selection)
        term = await self._open()
        known = term.state.namespaces.get(namespace)
        if known is not None and known.record == record:
            return _told(namespace, known)
        put = Put(term.state.keys.namespace(namespace), msgspec.json.encode(record))
        change = Change((), (put,), put.key, put.value)
        revision = await self._finish(self._commit_audited(term, change))
        return _told(namespace, Namespaced(record, revision))

    async def unset_namespace(self, namespace: str) -> None:
        """Nothing to end is success."""
        term = await self._open()
        if namespace in term.state.namespaces:
            key = term.state.keys.namespace(namespace)
            change = Change((), (Delete(key),), key, None)
            await self._finish(self._commit_audited(term, change))
