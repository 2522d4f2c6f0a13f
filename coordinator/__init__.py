"""One order for all writes, committed to the store; `consensus.Coordinator` is the entry point."""
