"""Two versions side by side: a cluster of the released version goes to this one, member by member,
and back, while clients write through the balancer.
"""
