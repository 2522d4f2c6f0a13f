"""Judge lists that only grow, by the cycles among what depends on what."""
