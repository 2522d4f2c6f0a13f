"""What a process does to become a serving node."""
