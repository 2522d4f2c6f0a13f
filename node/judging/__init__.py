"""What may be served: entries that hold, positions that were given, a store that is ours."""
