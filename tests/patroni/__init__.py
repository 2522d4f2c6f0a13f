"""A real user of etcd's gateway: Patroni keeps three PostgreSQL alive, and its lock is in the
store.
"""
