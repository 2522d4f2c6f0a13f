"""Reads of keys: consistency levels, cache tiers, and the judgement of cached entries."""
