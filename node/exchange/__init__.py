"""One request and its answer: parsing, limits, common headers."""
