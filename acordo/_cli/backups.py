"""Commands on backups: take one, check one; and where one is restored."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from acordo._bulk.backup import (
    backup_into,
    backup_to,
    check_cluster,
    verify_file,
    verify_stored,
)
from acordo._bulk.backup_file import BackupSummary
from acordo._bulk.buckets import place_of, split
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

FileArgument = Annotated[
    str, typer.Argument(help="A backup's file, or s3://BUCKET/KEY; - is standard input.")
]


def backup(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            help="File to write, or s3://BUCKET/KEY, whole or not at all; - is standard output."
        ),
    ],
    since: Annotated[
        str,
        typer.Option(
            metavar="BACKUP",
            help="An earlier backup, whole or incremental: take only what changed after it.",
        ),
    ] = "",
) -> None:
    """Take a backup of the running cluster, at one revision: keys with history, expiries, leases,
    op_ids and the ledger, as far as they are kept. It is checked while it is written.

    With --since it holds what changed after that one, and is restored together with it. Leaves with
    6 if the cluster does not keep all of that any more: take a whole one then.
    """

    async def work(client: Client, output: Output) -> None:
        before = await _verified(since, output) if since else None
        if target == "-":
            done = await backup_to(client, output.raw, since=before)
            output.note(_line(done))
            return
        place, name = split(target)
        with output.progress("backup", None) as progress:
            done = await backup_into(
                client, place_of(place), name, since=before, on_progress=progress
            )
        _show(output, done)

    run(context, work)


def verify(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A backup's file or s3://BUCKET/KEY, - for standard input; else the cluster."
        ),
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
        found = await _verified(source, output)
        if cluster_id:
            check_cluster(found, cluster_id)
        _show(output, found)
        return OK

    run(context, work)


def restore(context: typer.Context, source: FileArgument) -> None:
    """Say how a backup is restored: never into a cluster that runs. The file is checked."""

    async def work(client: Client, output: Output) -> None:
        found = await _verified(source, output)
        output.note(_line(found))
        raise BadRequest(
            "a running cluster is not restored: what its clients were told would be undone under "
            "them",
            code="restore_into_running",
            allowed=RESTORED_BY,
        )

    run(context, work)


async def _verified(source: str, output: Output) -> BackupSummary:
    with output.progress("verify", None) as progress:
        if source == "-":
            return verify_file(opened(None), on_progress=progress)
        place, name = split(source)
        return await verify_stored(place_of(place), name, on_progress=progress)


def _show(output: Output, found: BackupSummary) -> None:
    if output.as_json:
        output.json(found)
    else:
        output.say(_line(found))


def _line(found: BackupSummary) -> str:
    made = datetime.fromtimestamp(found.made_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    what = "whole" if found.since is None else f"what changed after revision {found.since}"
    return (
        f"{what}: {found.keys} keys as of revision {found.revision}, {found.versions} versions, "
        f"{found.rows} rows of the ledger, {found.operations} op_ids, {found.leases} leases; "
        f"{found.bytes} bytes; cluster {shown(found.cluster_id) or '(unnamed)'}, a {found.kind} "
        f"store, taken at {made} by {shown(found.node)}; it can be restored as of any revision "
        f"from {found.floor} on; digest {found.digest[:16]}"
    )
