"""The benches of development: what the server does in a second, and what it takes for it.

`./run bench server` runs `bench.server`. No part of the distribution imports this package.
"""
