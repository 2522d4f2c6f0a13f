"""Strike a stack in containers once, under a small load, and say what its clients felt."""
