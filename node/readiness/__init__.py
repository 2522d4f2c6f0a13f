"""Readiness: whether this node should get traffic, and why not."""
