"""A member's network: sockets, handshakes, frames, and the codec of its messages.

It carries messages and judges who may send them, but does not interpret them.
"""
