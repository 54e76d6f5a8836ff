"""The Kubernetes controller: brings what one cluster's Kubernetes declares to the address server.

A client of both: it stores nothing itself, and whatever it has missed it finds by looking again.
"""
