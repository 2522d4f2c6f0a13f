"""The whole Store port in this process, with faults on demand: for tests and the simulation."""
