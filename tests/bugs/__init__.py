"""Nodes with a planted fault, as processes of their own: each must be caught from outside."""
