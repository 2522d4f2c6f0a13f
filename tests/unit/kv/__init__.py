"""Tests of the words that all parts share."""
