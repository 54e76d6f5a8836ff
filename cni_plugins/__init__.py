"""What runs on a node for a pod: the CNI protocol, the macvlan plugin, the IPAM client plugin and
the node agent."""
