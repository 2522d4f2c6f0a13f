"""The commands status and members: the whole cluster in one view, whatever the terminal's width."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import typer
from rich.cells import cell_len
from rich.text import Text

from acordo import _results as results
from acordo._cli.exit_codes import NO, OK
from acordo._cli.health import Alarm, Health, alarms
from acordo._cli.looking import look
from acordo._cli.output import Output
from acordo._cli.shell import run
from acordo._cli.text import shown, table
from acordo._client import Client

COLUMNS: Final = ("member", "role", "health", "revision", "lag", "seen", "version", "url")
COLOURS: Final = {"ready": "green", "degraded": "yellow"}
"""Of a member's state; others are red."""


def status(context: typer.Context) -> None:
    """Show the whole cluster: members, roles, health, revisions, versions, back ends and alarms.
    Leaves with 1 if there is no quorum, writes are refused, or the node asked is not ready.

    Each member is asked itself, too. An alarm costs service or safety now; a notice does not yet.
    """

    async def work(client: Client, output: Output) -> int:
        seen, members = await look(client, context.obj)
        told = alarms(seen, members)
        if output.as_json:
            output.json({**seen.raw, "health": _forms(members), "alarms": told})
        else:
            show_status(output, seen, members, told)
        return OK if seen.quorum and seen.leader and not seen.refusal and not seen.unready else NO

    run(context, work)


async def list_members(client: Client, output: Output, context: typer.Context) -> None:
    """Show the members alone."""
    if output.as_json:
        output.json(list((await client.cluster()).members))
        return
    seen, members = await look(client, context.obj)
    output.say(headline(seen))
    _show_members(output, members)


def _forms(members: Sequence[Health]) -> dict[str, object]:
    return {
        each.member.id: {
            "state": each.state,
            "why": each.why,
            "version": each.version,
            "feature_level": each.feature_level,
            "store": each.store,
        }
        for each in members
    }


def show_status(
    output: Output, seen: results.Cluster, members: Sequence[Health], told: Sequence[Alarm]
) -> None:
    """Print the view."""
    output.say(headline(seen))
    for line in stores(seen):
        output.say(line)
    _show_members(output, members)
    for each in told:
        colour = "red" if each.weight == "alarm" else "yellow"
        advice = f"\n  {shown(each.advice, 300)}" if each.advice else ""
        output.say(f"[{colour}]{each.weight}: {shown(each.what, 1000)}[/{colour}]{advice}")
    if not told:
        output.say("[green]no alarms[/green]")


def headline(seen: results.Cluster) -> str:
    """Return who leads, since when, and how far everything is settled."""
    who = f"{shown(seen.leader)} leads" if seen.leader else "this node knows no leader yet"
    who = f"[bold]{who}[/bold]" if seen.leader else f"[red]{who}[/red]"
    quorum = "[green]quorum[/green]" if seen.quorum else "[red]no quorum[/red]"
    since = seen.raw.get("leader_since_ms")
    for_s = time.time() - since / 1000 if isinstance(since, int) and seen.leader else 0
    ago = f" for {duration(for_s)}" if for_s >= 1 else ""
    return (
        f"{who} in term {seen.term}{ago}, {quorum}, settled at revision {seen.settled} "
        f"(as {shown(seen.node)} sees it)"
    )


def stores(seen: results.Cluster) -> list[str]:
    """Return the lines about the version in force and the back ends of the node that was asked."""
    raw = seen.raw
    lines = []
    if raw.get("version"):
        cluster = shown(str(raw.get("cluster_id") or "unnamed"))
        lines.append(
            f"cluster {cluster}, version {shown(str(raw['version']))}, "
            f"feature level {shown(str(raw.get('feature_level')))}"
        )
    if raw.get("store_kind") == "replicated":
        detail = shown(str(raw.get("store_detail") or ""), 300)
        state = shown(str(raw.get("store_state")))
        lines.append(f"its own store is {state}" + (f": {detail}" if detail else ""))
    elif raw.get("store_kind"):
        trouble = raw.get("store_trouble")
        state = f"in trouble: {shown(str(trouble), 300)}" if trouble else "sound"
        lines.append(f"the shared store is {state}")
    return lines


def duration(seconds: float) -> str:
    """Return how long something is, in its two largest units."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left, parts = int(seconds), list[str]()
    for name, size in units:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"


def _show_members(output: Output, members: Sequence[Health]) -> None:
    """Print a table where it fits, and else a block for each member: no line is cut."""
    rows = [row_of(each) for each in members]
    plain = [[Text.from_markup(cell).plain for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(COLUMNS, *plain, strict=True)]
    if sum(widths) + 2 * len(widths) <= output.out.width or not members:
        output.table(table(COLUMNS, rows))
        return
    for each, row in zip(members, rows, strict=True):
        id, role, health, revision, lag, seen, version, url = row
        output.say(f"[bold]{id}[/bold]  {role}, {health}")
        facts = [f"revision {revision}" if revision else "", f"lag {lag}" if lag else ""]
        facts += [f"seen {seen} ago" if seen else "", f"version {version}" if version else ""]
        output.say("  " + ", ".join(filter(None, facts)))
        if url:
            output.say(f"  {url}")
        if each.why:
            output.say(f"  {shown(each.why, 300)}")


def row_of(health: Health) -> list[str]:
    """Return the cells of a member, in the order of COLUMNS, with markup."""
    each = health.member
    colour = {"leader": "bold green", "unknown": "red"}.get(each.role, "default")
    role = f"[{colour}]{shown(each.role)}[/{colour}]" + ("" if each.voter else ", no vote")
    state = COLOURS.get(health.state, "red")
    return [
        shown(each.id),
        role,
        f"[{state}]{health.state}[/{state}]",
        _figure(each.settled),
        _figure(each.lag),
        "" if each.last_seen_s is None else f"{each.last_seen_s:.1f} s",
        shown(health.version),
        shown(each.url or "", 2000),
    ]


def _figure(number: int | None) -> str:
    return "" if number is None else str(number)
