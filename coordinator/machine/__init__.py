"""The replicated state machine, which is pure: commands, state, and what follows from them."""
