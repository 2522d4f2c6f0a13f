"""The start of a process as a serving node: settings, back ends, port, signals."""
