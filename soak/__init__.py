"""./run soak: clients, servers and etcd members under faults, and a checker of what came of it."""
