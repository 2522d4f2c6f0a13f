"""What operators decide and see of a node beside its cluster: access, and metrics."""
