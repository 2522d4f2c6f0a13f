"""The protocol's decisions as pure functions and values, without a log, a clock or a socket."""
