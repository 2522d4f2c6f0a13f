"""What a member speaks with others: sockets, handshakes, frames, and the codec of its messages.

It carries messages and judges who may send them; what they mean is the protocol's matter.
"""
