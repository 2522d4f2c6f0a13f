"""Carry out one run: plan it, load, disturb, heal, collect, and decide what it is worth."""
