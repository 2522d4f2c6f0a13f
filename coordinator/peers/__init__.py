"""Hold what members tell each other of their machines, and what each makes of it."""
