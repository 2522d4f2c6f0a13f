"""The HTTP side of one node: it parses, admits, groups, judges and answers."""
