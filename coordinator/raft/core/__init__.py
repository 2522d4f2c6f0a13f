"""The protocol: elections, replication, membership and reads of one replicated log, on PySyncObj.

It writes nothing to the disk and opens no socket itself; the storage and net packages below it do.
"""
