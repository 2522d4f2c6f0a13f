"""Provide the clusters to disturb: one on this machine, one in containers, or one run by others."""
