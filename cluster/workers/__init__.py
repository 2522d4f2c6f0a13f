"""Run background work for a cluster: submit asynchronous writes and deliver webhooks."""
