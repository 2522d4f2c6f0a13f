"""Cache and Broadcast in this process: what a node has that is given no server for them."""
