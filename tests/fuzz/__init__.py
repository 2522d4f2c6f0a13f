"""Feed every parser with what a coverage-guided fuzzer comes up with, and keep what reached new
code (`python -m tests.fuzz`; the unit tests replay it).
"""
