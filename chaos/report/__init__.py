"""Explain findings and report runs: what went wrong, what is weak, and pictures of both."""
