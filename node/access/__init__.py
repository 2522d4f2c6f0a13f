"""Access control: who asks, what they may do, and services that do no more than that."""
