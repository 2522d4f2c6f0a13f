"""HTTP transport within bounds: connections, bodies, origins. It knows nothing of keys."""
