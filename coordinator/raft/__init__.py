"""One replicated log: the protocol (core), on the storage and the network below it."""
