"""Three clusters on routers in network namespaces, and the tools that look at their traffic: what
the demo, the bench and the tests of federations run in."""
