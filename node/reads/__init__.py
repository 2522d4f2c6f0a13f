"""How a key is read: at which level, from which tier, and judged by what."""
