"""The protocol's decisions: pure functions and values, without a log, a clock or a socket."""
