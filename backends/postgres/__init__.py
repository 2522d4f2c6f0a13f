"""The Store port on PostgreSQL and CockroachDB."""
