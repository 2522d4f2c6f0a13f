"""Inflict one fault on a stack in containers under a small load; measure what clients notice."""
