"""Judge histories, one model per module. Pure: nothing here reads a clock, draws a number or opens
a socket.
"""
