"""The installation check itself can fail."""
