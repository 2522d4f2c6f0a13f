"""Start private instances of real servers on free loopback ports, with temporary data, and stop
them.
"""
