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
    checks,
    cluster,
    dead,
    dev,
    diagnosing,
    keys,
    leases,
    ledger,
    local,
    locks,
    mirroring,
    status,
    top,
    transactions,
    watching,
    webhooks,
)
from acordo._cli.pages import complete_pages
from acordo._cli.shell import app, hoisted

PANELS: Final[dict[str, dict[str, Callable[..., None] | typer.Typer]]] = {
    "Keys": {
        "get": keys.get,
        "put": keys.put,
        "cas": keys.cas,
        "delete": keys.delete,
        "list": keys.list_,
        "txn": transactions.txn,
        "history": watching.history,
        "operation": transactions.operation,
    },
    "Watch and coordinate": {
        "watch": watching.watch,
        "lock": locks.lock,
        "elect": locks.elect,
        "lease": leases.lease_app,
    },
    "Cluster": {
        "dev": dev.dev,
        "status": status.status,
        "top": top.top,
        "leader": cluster.leader,
        "kill": local.kill,
        "transfer": cluster.transfer,
        "limits": cluster.limits,
        "adopt": cluster.adopt,
        "check": checks.check_app,
        "members": cluster.members_app,
    },
    "Backup": {
        "backup": backups.backup,
        "restore": backups.restore,
        "verify": backups.verify,
        "diagnose": diagnosing.diagnose,
    },
    "Data": {
        "load": bulk.load,
        "dump": bulk.dump,
        "mirror": mirroring.mirror,
        "ledger": ledger.ledger_app,
    },
    "Access and certificates": {
        "access": access.access_app,
        "token": access.token_app,
        "role": access.role_app,
        "cert": cert.cert_app,
    },
    "Webhooks and asynchronous writes": {
        "webhook": webhooks.webhook_app,
        "dead": dead.dead_app,
    },
}
"""The panels of the help, and their commands, in the order in which it lists them."""
COMMANDS: Final = {name: command for panel in PANELS.values() for name, command in panel.items()}

for _panel, _commands in PANELS.items():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, rich_help_panel=_panel)
        else:
            app.command(_name, rich_help_panel=_panel)(_command)
complete_pages(app)


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line."""
    return app(args=hoisted(sys.argv[1:] if arguments is None else arguments), prog_name="acordo")
