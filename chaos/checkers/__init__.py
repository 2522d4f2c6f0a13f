"""Check histories, one model per module. Pure: nothing here reads a clock, draws a random number or
opens a socket.
"""
