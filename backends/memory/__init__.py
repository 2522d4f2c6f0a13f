"""The Store port in this process's memory, with faults on demand, for tests and the simulation."""
