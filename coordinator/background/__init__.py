"""Hold the loops beside the committer: broadcast, expiry and pruning, scrubbing, comparing machines."""
