"""Real processes: what a person who types one command gets."""
