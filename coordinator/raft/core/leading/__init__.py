"""What a leader does: knows how far each peer is, sends, counts acknowledgements, commits."""
