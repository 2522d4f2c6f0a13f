"""Do what waits in a cluster: submit asynchronous writes and deliver webhooks."""
