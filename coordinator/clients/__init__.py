"""Serve this member's own clients: admit intents, propose them, wait, answer, feed listeners."""
