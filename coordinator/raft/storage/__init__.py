"""What a member keeps on its disk: the journal of its log, its vote, and its snapshots.

It knows nothing of the protocol above it and never speaks with another member.
"""
