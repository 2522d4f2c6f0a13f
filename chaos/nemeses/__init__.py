"""Faults, one kind per module. Each proves from outside that it bit, and heals whatever happens."""
