"""Carry out one run: plan, load, disturb, heal, collect, and decide what it proves."""
