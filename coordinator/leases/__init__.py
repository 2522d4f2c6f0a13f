"""Leases: when each ends, as the leader's memory knows, and how members ask the leader for it."""
