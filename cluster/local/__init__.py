"""Run a cluster of processes on this machine: start it, watch it, change its members, show it."""
