"""What reclaiming tells, for tests of the API and of the command line."""

from netspace.upkeep import Candidate

CANDIDATE = Candidate(
    network="vlan910",
    slot="7",
    ipv4="10.91.0.7",
    ipv6="fd00:91::7",
    node="node-1",
    namespace="team-a",
    pod="web-0",
    container="c0ffee",
    ifname="eth0",
    generation=3,
    since=400.0,
    last=10.0,
    proved=False,
    lacks="another report of node node-1",
)
