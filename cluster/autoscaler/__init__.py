"""Add and remove observers, never voters, by what Prometheus says of the load."""
