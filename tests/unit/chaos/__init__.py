"""Tests of the histories, checkers, workloads and nemeses, none of which needs a cluster."""
