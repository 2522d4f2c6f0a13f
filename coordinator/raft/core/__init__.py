"""The protocol: elections, replication, membership and reads of one replicated log, on PySyncObj.

It keeps nothing on the disk and opens no socket itself: storage and net, below it, do.
"""
