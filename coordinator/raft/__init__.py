"""One replicated log: the protocol, on what is kept (storage) and what is spoken (net)."""
