"""Generate load on a cluster while it is disturbed, one kind per module, each with its checker."""
