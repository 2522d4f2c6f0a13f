"""Load that a cluster is put under while it is disturbed, one kind per module, each with a checker
that judges it.
"""
