"""Connections, bodies and origins within bounds. It knows no key."""
