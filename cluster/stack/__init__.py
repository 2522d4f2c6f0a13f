"""The stack in containers: check its settings, start, upgrade, replace a node, stop. `python -m
cluster stack`.
"""
