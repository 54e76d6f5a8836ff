"""What the tests of runtimes look at: pods, what they reach, and what is left of them."""

from __future__ import annotations

import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from hostnet import Net, Netns, get_link, list_addresses, run_in
from lab import programs
from lab.server import until
from netspace.messages import AddressEntry, NewPool
from netspace.problems import Problem
from tests.nodes import IpamServer
from tests.runtime.machine import Machine

CLUSTER = "cluster-1"
TENANT = NewPool(
    name="tenant", kind="netspace", network="net", size="8", cooldown=0, namespaces=["*"]
)
"""The pool that pods name by their annotation."""


@dataclass
class World:
    """A server and two nodes on one segment."""

    server: IpamServer
    one: Machine
    two: Machine

    @property
    def machines(self) -> tuple[Machine, Machine]:
        return self.one, self.two

    def start_server(self) -> None:
        """Starts the server, and waits until it leads."""
        self.server.start()
        until(self._leads, "the server leads")

    def held(self) -> list[AddressEntry]:
        """The addresses that pods hold; a server that has just started is waited for."""
        until(self._leads, "the server leads")
        page = self.server.ask(lambda client: client.addresses(CLUSTER, state="used"))
        return [entry for entry in page.items if entry.container]

    def holder_of(self, pod: str) -> AddressEntry:
        """The one address of the pod."""
        (entry,) = [entry for entry in self.held() if entry.pod == pod]
        return entry

    def audit(self) -> None:
        """Fails where `netspacectl audit` finds anything."""
        command = [str(programs.VENV / "bin" / "netspacectl"), "audit", "--cluster", CLUSTER]
        done = subprocess.run(
            [*command, "--server", self.server.url], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def nothing_is_left(self) -> None:
        """No address, no record, no sandbox; and the stored state is sound."""
        assert self.held() == []
        for machine in self.machines:
            assert machine.node.files() == []
            assert machine.sandboxes() == []
        self.audit()

    def _leads(self) -> bool:
        try:
            self.server.ask(lambda client: client.addresses(CLUSTER, limit=1))
        except Problem as problem:
            if not problem.again:
                raise
            return False
        return True


def shown(netns: Netns, ifname: str = "eth0") -> tuple[bool, list[str]]:
    """Whether the interface is up, and its addresses of global scope, IPv4 first."""

    def look(net: Net) -> tuple[bool, list[str]]:
        link = get_link(net, ifname)
        found = [a.interface.ip for a in list_addresses(net, link) if a.scope == "global"]
        return link.up, [str(ip) for ip in sorted(found, key=lambda ip: ip.version)]

    return run_in(netns, look)


def pings(netns: Netns, address: str) -> bool:
    """Whether the address answers one echo request within two seconds."""
    command = [str(programs.find("ping")), "-c1", "-W2", address]
    done = run_in(netns, lambda _: subprocess.run(command, capture_output=True))
    return done.returncode == 0


def talks(client: Netns, server: Netns, address: str) -> bool:
    """Whether a TCP connection to the server's address carries a line there and back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def listen(_: Net) -> socket.socket:
        made = socket.create_server((address, 0), family=family)
        made.settimeout(5)
        return made

    with run_in(server, listen) as listener:

        def echo() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(connection.recv(100))

        thread = threading.Thread(target=echo)
        thread.start()
        try:

            def call(_: Net) -> bytes:
                place = listener.getsockname()[:2]
                with socket.create_connection(place, timeout=5) as connection:
                    connection.sendall(b"hello")
                    return connection.recv(100)

            return run_in(client, call) == b"hello"
        finally:
            thread.join()


def under_way(machine: Machine) -> bool:
    """Whether a call is in the middle of its work: its record is there and has no result yet."""
    folder: Path = machine.node.state / "attachments"

    def adding(path: Path) -> bool:
        try:
            # The last line of a record's file is what counts.
            return '"adding"' in path.read_text().splitlines()[-1]
        except FileNotFoundError:
            return False

    return any(map(adding, folder.glob("*.json")))
