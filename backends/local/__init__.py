"""The Cache and Broadcast ports in this process, for a node without servers for them."""
