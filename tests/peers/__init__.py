"""Hold Acordo against what others wrote for etcd: the suites of its Python clients, and a corpus of
requests with the answers that etcd 3.4 gave.
"""
