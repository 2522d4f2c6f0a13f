"""Whether this node should get traffic, and why not."""
