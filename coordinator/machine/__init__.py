"""Hold the replicated state machine, which is pure: commands, state, what follows from them."""
