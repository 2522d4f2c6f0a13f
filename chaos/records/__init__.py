"""What is recorded of a run while it lasts and collected after it, and how it is read again."""
