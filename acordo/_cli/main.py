"""The command line `acordo`: every command makes a client call and shows the result. It decides
nothing but the exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import typer

from acordo._cli import (
    access,
    backups,
    bulk,
    cert,
    cluster,
    dead,
    dev,
    keys,
    leases,
    ledger,
    transactions,
    webhooks,
)
from acordo._cli.shell import app, hoisted

GROUPS: Final[dict[str, typer.Typer]] = {
    "access": access.access_app,
    "token": access.token_app,
    "role": access.role_app,
    "cert": cert.cert_app,
    "lease": leases.lease_app,
    "ledger": ledger.ledger_app,
    "members": cluster.members_app,
    "dead": dead.dead_app,
    "webhook": webhooks.webhook_app,
}
COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "dev": dev.dev,
    "load": bulk.load,
    "dump": bulk.dump,
    "backup": backups.backup,
    "restore": backups.restore,
    "verify": backups.verify,
    "leader": cluster.leader,
    "status": cluster.status,
    "transfer": cluster.transfer,
    "adopt": cluster.adopt,
    "limits": cluster.limits,
    "get": keys.get,
    "put": keys.put,
    "cas": keys.cas,
    "delete": keys.delete,
    "list": keys.list_,
    "txn": transactions.txn,
    "watch": keys.watch,
    "history": keys.history,
    "operation": transactions.operation,
}
"""In the order in which the help lists them."""

for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line."""
    return app(args=hoisted(sys.argv[1:] if arguments is None else arguments), prog_name="acordo")
