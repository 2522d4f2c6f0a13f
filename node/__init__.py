"""The HTTP server of one node: it parses, admits, groups, judges and answers requests."""
