"""Pure judgements of what may be served: entries that hold, positions that exist, a store that is
ours.
"""
