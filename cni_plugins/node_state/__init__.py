"""The node as it should be, and the repair of what is not: bonds, VLANs, settings, pods' links."""
