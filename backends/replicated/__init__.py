"""A member's own store: one SQLite file that the log fills, and that no other process opens."""
