"""Run a cluster of processes on this machine: start, supervise, change members, show status."""
