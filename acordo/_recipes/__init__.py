"""What is commonly built on keys, leases and transactions, for `acordo.recipes`."""
