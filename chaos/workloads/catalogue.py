"""List the workloads by name, for the command line and for runs."""

from __future__ import annotations

from typing import Final

from chaos.workloads.append import Append
from chaos.workloads.bank import Bank
from chaos.workloads.base import Workload
from chaos.workloads.counter import Counter
from chaos.workloads.etcd import Etcd
from chaos.workloads.leases import Leases
from chaos.workloads.lock import Lock
from chaos.workloads.recipes import Recipes
from chaos.workloads.register import Register
from chaos.workloads.session import Session
from chaos.workloads.sets import Set
from chaos.workloads.stale import Stale
from chaos.workloads.ttl import Ttl
from chaos.workloads.watching import Watching

WORKLOADS: Final[dict[str, type[Workload]]] = {
    w.name: w
    for w in (
        Register,
        Set,
        Append,
        Bank,
        Watching,
        Session,
        Stale,
        Lock,
        Counter,
        Ttl,
        Leases,
        Recipes,
        Etcd,
    )
}
