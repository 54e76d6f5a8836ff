"""Running pods' addresses taken over from another address plugin: read from what it left
(`sources`), completed by what Kubernetes and runtimes say (`found`), held against what the server
has (`plan`), and carried out (`carrying`).
"""
