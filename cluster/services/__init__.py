"""Start and stop private instances of real servers, on free loopback ports and temporary data."""
