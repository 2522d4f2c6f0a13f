"""A member whose store is its own: settle what the log orders at once, and keep the file right."""
