"""Disturb a cluster from outside and judge what its clients saw."""
