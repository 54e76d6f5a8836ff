"""What a node asks of Kubernetes' API, and tells it: pods' annotations where the runtime passes
none, and events on pods. Loaded only where the node's configuration has a section for it.
"""
