"""Product bugs on purpose: each changes a single function of a node, and each must be caught from
outside.
"""
