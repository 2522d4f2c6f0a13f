"""Record a run while it lasts, collect evidence after it, and read both again."""
