"""Inject faults into a cluster from outside and check what its clients observed."""
