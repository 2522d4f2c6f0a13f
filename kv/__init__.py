"""The words that every part of Acordo shares; imports nothing else of the project.

`model`: what is written, read and recorded, from keys to ledger rows. `errors`: failures, by what
the caller may do next. `ports`: what the parts expect of each other, a module for each port
(`store`, `cache`, `broadcast`, `consensus`, `clock`). `names`: what a cluster is called on a broker
that it may share. `addresses`: which of them this machine alone can reach.
"""
