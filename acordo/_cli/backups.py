"""Commands on backups: take one, check one; and where one is restored."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from acordo._bulk.backup import backup as write_backup
from acordo._bulk.backup import backup_to, check_cluster, verify_file
from acordo._bulk.backup_file import BackupSummary
from acordo._cli.exit_codes import OK
from acordo._cli.output import Output
from acordo._cli.shell import opened, run
from acordo._cli.text import shown
from acordo._cli.verifying import verify_cluster
from acordo._client import Client
from acordo._errors import BadRequest

RESTORED_BY = (
    "a new cluster: `python -m cluster up --from-backup FILE --data DIR`, or on each machine "
    "`python -m node --restore FILE` before its first start (docs/operations.md)"
)

FileArgument = Annotated[str, typer.Argument(help="A backup's file; - is standard input.")]


def backup(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(help="File to write, whole or not at all; - is standard output.")
    ],
) -> None:
    """Take a backup of the running cluster, at one revision: keys with history, expiries, leases,
    op_ids and the ledger, as far as they are kept. It is checked while it is written.
    """

    async def work(client: Client, output: Output) -> None:
        if target == "-":
            done = await backup_to(client, output.raw)
            output.note(_line(done))
            return
        with output.progress("backup", None) as progress:
            done = await write_backup(client, Path(target), on_progress=progress)
        _show(output, done)

    run(context, work)


def verify(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A backup's file, - for standard input; else the cluster.")
    ] = "",
    cluster_id: Annotated[
        str, typer.Option(help="Refuse a backup that is not of the cluster with this id.")
    ] = "",
) -> None:
    """Check a backup: every chunk, the order of its ledger, its totals. Leaves with 2 and the
    reason if it is not whole and unaltered.

    Without a file it checks the running cluster: every version, row and index of every member, the
    ledger's chain, and all members against each other. Leaves with 1 if anything is not sound, or a
    member could not be asked.
    """

    async def work(client: Client, output: Output) -> int:
        if not source:
            return await verify_cluster(client, output)
        path = None if source == "-" else Path(source)
        with opened(path) as file, output.progress("verify", None) as progress:
            found = verify_file(file, on_progress=progress)
        if cluster_id:
            check_cluster(found, cluster_id)
        _show(output, found)
        return OK

    run(context, work)


def restore(context: typer.Context, source: FileArgument) -> None:
    """Say how a backup is restored: never into a cluster that runs. The file is checked."""

    async def work(client: Client, output: Output) -> None:
        with opened(None if source == "-" else Path(source)) as file:
            found = verify_file(file)
        output.note(_line(found))
        raise BadRequest(
            "a running cluster is not restored: what its clients were told would be undone under "
            "them",
            code="restore_into_running",
            allowed=RESTORED_BY,
        )

    run(context, work)


def _show(output: Output, found: BackupSummary) -> None:
    if output.as_json:
        output.json(found)
    else:
        output.say(_line(found))


def _line(found: BackupSummary) -> str:
    made = datetime.fromtimestamp(found.made_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f"whole: {found.keys} keys as of revision {found.revision}, {found.versions} versions, "
        f"{found.rows} rows of the ledger, {found.operations} op_ids, {found.leases} leases; "
        f"{found.bytes} bytes; cluster {shown(found.cluster_id) or '(unnamed)'}, a {found.kind} "
        f"store, taken at {made} by {shown(found.node)}; it can be restored as of any revision "
        f"from {found.floor} on; digest {found.digest[:16]}"
    )
