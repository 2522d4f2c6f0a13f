"""A shared store that fails over by itself: three PostgreSQL under Patroni in synchronous mode, and
a cluster of Acordo on them, loaded and judged while their primary is killed, stopped, cut off and
switched.
"""
