"""One call to a cluster: its attempts, what each one showed, the decision to retry, and the
error.
"""
