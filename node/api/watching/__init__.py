"""GET /v1/watch: changes under a prefix, as a stream of events or as documents."""
