"""The follower: it takes entries and snapshots, acknowledges them, and rebuilds its machine."""
