"""Writes and their outcomes: admission, staging, submission, look-up."""
