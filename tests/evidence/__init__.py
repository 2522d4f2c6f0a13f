"""The published reproductions of the library's hazards, run against our classes (`make
evidence`).
"""
