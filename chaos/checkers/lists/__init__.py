"""Check append-only lists by searching for cycles among the dependencies of transactions."""
