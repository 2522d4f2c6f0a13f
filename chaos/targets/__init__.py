"""What is disturbed: a cluster of this machine, one in containers, or somebody else's."""
