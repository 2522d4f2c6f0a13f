"""The types and ports that all parts of Acordo share. It imports nothing else of the project.

`model` has what is written, read and recorded, from keys to ledger rows. `errors` has the failures,
by what the caller may do next. `ports` has what the parts expect of each other, a module for each
port (`store`, `cache`, `broadcast`, `consensus`, `clock`). `names` names a cluster's exchanges and
queues on a broker that it may share. `addresses` tells which addresses only this machine can reach.
"""
