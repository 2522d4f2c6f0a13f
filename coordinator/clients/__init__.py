"""Hold what this member does for its own clients: admit, hand in, wait, answer, feed listeners."""
