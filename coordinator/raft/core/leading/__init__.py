"""The leader: it tracks each peer's progress, sends, counts acknowledgements and commits."""
