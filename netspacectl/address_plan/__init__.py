"""The address plan of all clusters: what there is, what a file declares, the way from one to the
other, and how both are shown. Pure but for `present.read` and `carrying.carry_out`, which ask the
server."""
