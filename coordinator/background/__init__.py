"""The loops beside the committer: broadcast, expiry, pruning, scrubbing, likeness."""
