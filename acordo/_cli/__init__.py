"""The command line `acordo`: commands, what they share, and what they print."""
