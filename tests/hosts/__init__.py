"""Machines with addresses and files of their own, in namespaces of this one: what docs/deploy.md
says, and a cluster whose machines are replaced one after another.
"""
