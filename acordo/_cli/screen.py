"""The screen of `acordo top`. It only reads, unless a key asks for a transfer of the lead."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from acordo._cli.figures import Load, Rates, grown, load_of, rates
from acordo._cli.health import Health, alarms
from acordo._cli.looking import look
from acordo._cli.shell import ANSWER_S, GlobalOptions, client_of, client_of_member
from acordo._cli.status import COLUMNS, headline, row_of
from acordo._cli.text import shown
from acordo._client import Client
from acordo._errors import AcordoError
from acordo._messages import Reply
from acordo._results import Cluster
from acordo._wire import requests

LEASES_MAX: Final = 1000
"""Leases that are counted; beyond, it says so."""


class Screen(App[None]):
    """The cluster, looked at again and again until a key ends it."""

    CSS = """
    #head, #load { height: auto; padding: 0 1; }
    #members { height: auto; max-height: 60%; margin: 1 0; }
    #alarms { height: 1fr; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("p", "pause", "Pause"),
        Binding("t", "transfer", "Let this member lead"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, options: GlobalOptions, every_s: float) -> None:
        super().__init__()
        self.options, self.every_s = options, every_s
        self.paused = False
        self.looks = 0
        self._before: tuple[float, dict[str, Load]] | None = None

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static("asking the cluster …", id="head")
        yield Static("", id="load")
        yield DataTable(id="members", cursor_type="row")
        yield Static("", id="alarms")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one(DataTable).add_columns(*COLUMNS)
        self.run_worker(self._look_again(), exclusive=True)

    def action_pause(self) -> None:
        """Stop looking, or go on."""
        self.paused = not self.paused
        self.notify("paused" if self.paused else "goes on")

    async def action_transfer(self) -> None:
        """Let the member under the cursor lead."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return
        member = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value or ""
        try:
            async with client_of(self.options) as client:
                self.notify(f"{await client.transfer(member)} leads")
        except AcordoError as error:
            self.notify(error.detail, severity="error")

    async def _look_again(self) -> None:
        async with client_of(self.options) as client:
            while True:
                if not self.paused:
                    await self._look(client)
                    self.looks += 1
                await asyncio.sleep(self.every_s)

    async def _look(self, client: Client) -> None:
        try:
            seen, members = await look(client, self.options)
            leases, load = await asyncio.gather(_leases(client), _load(seen, self.options))
        except AcordoError as error:
            self.query_one("#alarms", Static).update(Text(f"alarm: {error.detail}", "red"))
            return
        now = time.monotonic()
        came = grown(self._before[1] if self._before else {}, load)
        known = self._before is not None and not load.keys().isdisjoint(self._before[1])
        moved = rates(Load(), came, now - self._before[0]) if self._before and known else None
        self._before = (now, load) if load else None
        self._show(seen, members, moved, came if load else None, leases)

    def _show(
        self,
        seen: Cluster,
        members: list[Health],
        moved: Rates | None,
        load: Load | None,
        leases: str,
    ) -> None:
        self.query_one("#head", Static).update(Text.from_markup(headline(seen)))
        figures = [f"writes/s {moved.writes_per_s:.1f}" if moved else "writes/s -"]
        p99 = moved.p99_ms if moved else None
        figures += [f"p99 ≤ {p99:g} ms" if p99 is not None else "p99 -"]
        figures += [f"watchers {load.watchers}" if load else "watchers -", f"leases {leases}"]
        self.query_one("#load", Static).update(Text("   ".join(figures)))
        table = self.query_one(DataTable)
        at = table.cursor_row
        table.clear()
        for each in members:
            cells = [Text.from_markup(cell) for cell in row_of(each)]
            table.add_row(*cells, key=each.member.id)
        table.move_cursor(row=max(0, min(at, len(members) - 1)))
        lines = [
            f"[{'red' if each.weight == 'alarm' else 'yellow'}]{each.weight}: "
            f"{shown(each.what, 300)}[/] {shown(each.advice, 200)}"
            for each in alarms(seen, members)
        ]
        text = "\n".join(lines) or "[green]no alarms[/green]"
        self.query_one("#alarms", Static).update(Text.from_markup(text))


async def _leases(client: Client) -> str:
    """Return how many leases there are; "-" for whom they are not shown to."""
    count = 0
    try:
        async for _ in client.leases():
            count += 1
            if count == LEASES_MAX:
                return f"{count} or more"
    except AcordoError:
        return "-"
    return str(count)


async def _load(seen: Cluster, options: GlobalOptions) -> dict[str, Load]:
    """Return the load of each member that lets its metrics be read, by id."""
    urls = {each.id: each.url for each in seen.members if each.url}
    found = await asyncio.gather(*(_load_of(url, options) for url in urls.values()))
    return {id: each for id, each in zip(urls, found, strict=True) if each is not None}


async def _load_of(url: str, options: GlobalOptions) -> Load | None:
    try:
        async with client_of_member(options, url, ANSWER_S) as client:
            return await client._call(requests.plain_get("/metrics"), _parsed, None)
    except AcordoError:
        return None


def _parsed(reply: Reply) -> Load:
    return load_of(reply.body.decode("utf-8", "replace"))
