"""Verify a running cluster: every member's store, the ledger's chain, and all members against each
other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec

from acordo._cli.exit_codes import NO, OK
from acordo._cli.ledger_digests import Chain, Flaw
from acordo._cli.output import Output
from acordo._cli.text import shown
from acordo._client import Client
from acordo._errors import AcordoError
from acordo._results import Cluster, Inspected


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a cluster as of one revision."""

    revision: int
    members: dict[str, Inspected | str]
    """By id: what was found, or why it could not be asked."""
    differing: list[str]
    """Members whose keys are not those of most, or, where there are no most, all of them."""
    rows: int
    flaws: list[Flaw]
    """Of the ledger's chain."""

    @property
    def sound(self) -> bool:
        """Whether every member was asked, and nothing was found."""
        return not (self.differing or self.flaws) and all(
            isinstance(found, Inspected) and not found.flaws_total
            for found in self.members.values()
        )


async def verify_cluster(client: Client, output: Output) -> int:
    """Check all of it, show what was found, and return the exit code."""
    page = await anext(client.pages(b"", limit=1))
    seen = await client.cluster()
    urls = {each.id: each.url for each in seen.members if each.url}
    if seen.raw.get("store_kind") == "shared":  # there is one store: the leader's word is enough
        urls = {id: url for id, url in urls.items() if id == seen.leader}
    found = await asyncio.gather(*(_inspected(client, url, page.revision) for url in urls.values()))
    chain, flaws = Chain(), list[Flaw]()
    async for row in client.ledger(1):
        flaws += chain.add(row)
    members: dict[str, Inspected | str] = dict(zip(urls, found, strict=True))
    if not urls or seen.raw.get("store_kind") != "shared":
        for each in seen.members:
            members.setdefault(each.id, "its URL is not known")
    verdict = Verdict(
        revision=page.revision,
        members=members,
        differing=differing(members),
        rows=chain.rows,
        flaws=flaws,
    )
    _show(output, verdict, seen)
    return OK if verdict.sound else NO


async def _inspected(client: Client, url: str, revision: int) -> Inspected | str:
    try:
        return [found async for found in client.inspect(url, revision)][-1]
    except AcordoError as error:
        return error.detail


def differing(members: dict[str, Inspected | str]) -> list[str]:
    """Return the members whose digest is not that of a majority of those that were asked; all of
    them, if no digest has one.
    """
    digests = {id: found.digest for id, found in members.items() if isinstance(found, Inspected)}
    counted = Counter(digests.values()).most_common(1)
    if not counted or counted[0][1] == len(digests):
        return []
    most, count = counted[0]
    has_majority = 2 * count > len(digests)
    return sorted(id for id, digest in digests.items() if digest != most or not has_majority)


def _show(output: Output, verdict: Verdict, seen: Cluster) -> None:
    if output.as_json:
        output.json({**msgspec.to_builtins(verdict), "sound": verdict.sound})
        return
    for id, found in sorted(verdict.members.items()):
        output.say(f"{shown(id)}: {_line(found)}")
        _show_flaws(output, found.flaws if isinstance(found, Inspected) else ())
    for id in verdict.differing:
        output.say(f"[red]{shown(id)} has other keys, or other facts of keys, than most[/red]")
    _show_flaws(output, [f"row {flaw.seq}: {flaw.why}" for flaw in verdict.flaws])
    chain = "does not hold" if verdict.flaws else "holds"
    output.say(
        f"as of revision {verdict.revision}: the chain of {verdict.rows} rows {chain}; "
        + ("nothing was found" if verdict.sound else "[red]not all of it is sound[/red]")
    )


def _show_flaws(output: Output, flaws: Sequence[str]) -> None:
    for flaw in flaws[:20]:
        output.say(f"  [red]{shown(flaw, 300)}[/red]")


def _line(found: Inspected | str) -> str:
    if isinstance(found, str):
        return f"[red]could not be verified: {shown(found, 300)}[/red]"
    flaws = f"[red]{found.flaws_total} flaws[/red]" if found.flaws_total else "sound"
    return (
        f"{flaws}; {found.keys} keys, {found.versions} versions, rows to {found.rows}, digest "
        f"{found.digest[:16]}"
    )
