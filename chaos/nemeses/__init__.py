"""Inject faults, one kind per module. Each proves from outside that it took effect, and always
heals.
"""
