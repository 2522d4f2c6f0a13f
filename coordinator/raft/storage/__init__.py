"""A member's storage: the journal of its log, its vote, and its snapshots.

It knows nothing of the protocol above it and never communicates with another member.
"""
