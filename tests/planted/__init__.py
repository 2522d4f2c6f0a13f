"""Faults planted in the product on purpose: one mechanism for all who want to see them found.

Who wants a fault takes it from the registry by its name: the unit tests of the protocol's rules,
the simulation, and chaos (in real node processes). The product knows of none.
"""
