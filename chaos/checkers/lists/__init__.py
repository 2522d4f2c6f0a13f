"""Judge lists that only grow: which dependencies between operations form a cycle?"""
