"""Add and remove observers, never voters, depending on the load that Prometheus reports."""
