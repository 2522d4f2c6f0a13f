"""Run `python -m cluster add | remove | replace`: change the members of the cluster that `up` runs.

Each command makes a real membership change through the API of the running cluster, and updates
`cluster.json` in its directory, which the runner follows. Every step is repeatable, so a command
that was interrupted can be run again and continues where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp

from acordo import AcordoError, Client, Cluster, OutcomeUnknown
from acordo import BadRequest as Unacceptable
from cluster.directory import locked
from cluster.local.closing import admin_client, as_admin
from cluster.local.layout import ID_PREFIX, ClusterFile, Place, keep_cluster, read_cluster, running
from cluster.ports import refuse_taken_port
from cluster.settings.runner import NODES_MAX, RAFT_PORT_OFFSET
from kv.errors import BadRequest

START_WITHIN_S: Final = 60.0
"""Longest wait for the process of a new member to answer."""
JOIN_WITHIN_S: Final = 300.0
"""Longest wait for a new member to catch up and get its vote."""
CALL_TIMEOUT_S: Final = 20.0
PAUSE_S: Final = 0.5
PLACES_MAX: Final = 200
"""Most places that a directory ever gives. Each has its own ports, and the Raft ports begin
RAFT_PORT_OFFSET above the HTTP ports.
"""

EX_TEMPFAIL: Final = 75
"""Exit code of sysexits.h: a temporary failure; run the command again."""


class Membership:
    """The membership of one running local cluster, with the operations that change it."""

    def __init__(
        self, data: Path, client: Client, http: aiohttp.ClientSession, say: Callable[[str], None]
    ) -> None:
        self.data, self.say = data, say
        self.client, self.http = client, http
        self.file = read_cluster(data)

    async def add(self) -> str:
        """Start a new member, let it catch up, give it a vote, and return its id.

        If an earlier `add` was interrupted, this continues with its member.
        """
        view = await self._whole()
        joining = [place for place in self.file.all_places if place.state == "joining"]
        voters = sum(1 for member in view.members if member.voter)
        if not joining and voters >= NODES_MAX:
            raise BadRequest(
                "too_many", f"the cluster has {voters} voters", allowed=f"at most {NODES_MAX}"
            )
        place = joining[0] if joining else self._new_place(view)
        if not joining:
            self._keep(place)
        url, raft = (
            self._url(place),
            f"127.0.0.1:{self.file.base_port + place.number + RAFT_PORT_OFFSET}",
        )
        self.say(f"{'going on with' if joining else 'starting'} {place.id} at {url}")
        await self._answers(place, url)
        await self.client.add_member(place.id, raft_address=raft, url=url, timeout_s=CALL_TIMEOUT_S)
        self.say(f"{place.id} is a member and catches up")
        await self._promoted(place.id, raft, url)
        self._keep(Place(place.id, place.number, "member", place.first_members))
        self.say(f"{place.id} votes")
        return place.id

    async def remove(self, node: str) -> None:
        """Remove a member for good and stop it.

        Its directory stays; its id and its ports are never given to another member.
        """
        place = self._place(node)
        view = await self._whole()
        others = [m.id for m in view.members if m.voter and m.id != node]
        if not others:
            raise BadRequest(
                "last_member",
                f"{node} is the only voter: without it there is no cluster",
                allowed="python -m cluster add first, or `down` to stop the cluster",
            )
        await self._removed(place)

    async def replace(self, node: str) -> str:
        """Replace a member by a new one, and return the new id.

        The new member joins and gets its vote before the old one is removed.
        """
        place = self._place(node)
        await self._whole()
        added = await self.add()
        await self._removed(place)
        self.say(f"{added} has taken the place of {node}")
        return added

    # ---------------------------------------------------------------------------------------- steps

    async def _whole(self) -> Cluster:
        """Return the cluster's view of itself. Raises BadRequest("no_quorum") if it has no leader
        or quorum.
        """
        try:
            view = await self.client.cluster(timeout_s=CALL_TIMEOUT_S)
        except AcordoError as exc:
            raise BadRequest(
                "no_quorum", f"no node of {self.data} answers: {exc.detail}", allowed=NEEDS_QUORUM
            ) from exc
        if view.leader is None or not view.quorum:
            raise BadRequest(
                "no_quorum",
                f"{view.node} hears no quorum of "
                f"{', '.join(m.id for m in view.members if m.voter)}",
                allowed=NEEDS_QUORUM,
            )
        return view

    def _place(self, node: str) -> Place:
        for place in self.file.all_places:
            if place.id == node and place.state != "removed":
                return place
        known = ", ".join(p.id for p in self.file.all_places if p.state != "removed")
        was = " any more: it was removed" if any(p.id == node for p in self.file.all_places) else ""
        raise BadRequest(
            "unknown_member",
            f"{node} is no member of the cluster in {self.data}{was}",
            allowed=known,
        )

    def _new_place(self, view: Cluster) -> Place:
        """Return the next place whose ports are free.

        An id is never given twice, because a member that was removed never comes back.
        """
        members = [f"{m.id}={m.raft_address}{'' if m.voter else '/observer'}" for m in view.members]
        for number in range(max(p.number for p in self.file.all_places) + 1, PLACES_MAX):
            name, port = f"{ID_PREFIX}{number + 1}", self.file.base_port + number
            try:
                refuse_taken_port("127.0.0.1", port, "")
                refuse_taken_port("127.0.0.1", port + RAFT_PORT_OFFSET, "")
            except BadRequest:
                continue
            own = f"{name}=127.0.0.1:{port + RAFT_PORT_OFFSET}/observer"
            return Place(name, number, "joining", ",".join([*members, own]))
        raise BadRequest(
            "no_place",
            f"{self.data} has no place left whose ports are free",
            allowed="fewer changes",
        )

    def _keep(self, place: Place) -> None:
        self.file = self.file.with_place(place)
        keep_cluster(self.data, self.file)

    def _url(self, place: Place) -> str:
        return url_of(self.file, place, self.client.urls[0].partition("://")[0])

    async def _answers(self, place: Place, url: str) -> None:
        """Wait until the runner has started the member and it answers. Raises
        BadRequest("not_started").
        """
        try:
            async with asyncio.timeout(START_WITHIN_S):
                while True:
                    with contextlib.suppress(aiohttp.ClientError, OSError):
                        async with self.http.get(url + "/livez") as response:
                            if response.status == 200:
                                return
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            log = self.data / place.id / "node.log"
            raise BadRequest(
                "not_started",
                f"{place.id} does not answer at {url} after {START_WITHIN_S:g} s; see {log}",
                allowed="the same command once that is mended, or python -m cluster remove "
                f"{place.id}",
            ) from None

    async def _promoted(self, node: str, raft: str, url: str) -> None:
        """Ask for the member's vote until it has caught up, for up to JOIN_WITHIN_S."""
        loop = asyncio.get_running_loop()
        give_up, said = loop.time() + JOIN_WITHIN_S, ""
        while True:
            try:
                await self.client.add_member(
                    node, raft_address=raft, url=url, voter=True, timeout_s=CALL_TIMEOUT_S
                )
                return
            except AcordoError as exc:
                if loop.time() > give_up or (
                    isinstance(exc, Unacceptable) and exc.code == "membership_refused"
                ):
                    raise
                if exc.detail != said:
                    said = exc.detail
                    self.say(f"{node} may not vote yet: {said}")
            await asyncio.sleep(PAUSE_S)

    async def _removed(self, place: Place) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + JOIN_WITHIN_S
        while any(
            m.id == place.id for m in (await self.client.cluster(timeout_s=CALL_TIMEOUT_S)).members
        ):
            try:
                await self.client.remove_member(place.id, timeout_s=CALL_TIMEOUT_S)
            except OutcomeUnknown:  # repeating the removal is harmless
                if loop.time() > give_up:
                    raise
                await asyncio.sleep(PAUSE_S)
        self._keep(Place(place.id, place.number, "removed", place.first_members))
        self.say(f"{place.id} is removed for good; {self.data / place.id} stays as it is")


NEEDS_QUORUM: Final = (
    "a cluster of which a majority of the voters is heard: bring one of them back first"
)


def url_of(file: ClusterFile, place: Place, scheme: str = "http") -> str:
    """Return a member's HTTP URL on this machine."""
    return f"{scheme}://127.0.0.1:{file.base_port + place.number}"


@contextlib.asynccontextmanager
async def opened(
    data: Path, say: Callable[[str], None], leaving: str = ""
) -> AsyncIterator[Membership]:
    """Open the membership of the cluster that runs in a directory.

    `leaving` names a member that is not asked anything, because it may stop before it answers.
    Raises BadRequest if no cluster runs there, or if another command is changing its members.
    """
    file = read_cluster(data)
    found = running(data)
    if found is None:
        raise BadRequest(
            "not_running",
            f"no cluster runs in {data}",
            allowed="one that `python -m cluster up` runs there now",
        )
    (data / "change").mkdir(exist_ok=True)
    with locked(data / "change", "membership command"):
        urls = [node.url for node in found.nodes if node.id != leaving] or [
            url_of(file, p) for p in file.all_places
        ]
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        async with (
            admin_client(urls, CALL_TIMEOUT_S, data) as client,
            as_admin(timeout, data) as http,
        ):
            yield Membership(data, client, http, say)


def add_main(argv: list[str]) -> int:
    """Add a voting member."""
    parser = _parser(
        "add", "Start one more voting member in the cluster that `up` runs in a directory."
    )
    return _run(parser.parse_args(argv).data, lambda m: m.add())


def remove_main(argv: list[str]) -> int:
    """Remove a member."""
    parser = _parser(
        "remove",
        "Take a member out of the cluster for good. Its directory stays, its id is not reused.",
    )
    parser.add_argument("member", help="its id, as `status` shows it")
    given = parser.parse_args(argv)
    return _run(given.data, lambda m: m.remove(given.member), given.member)


def replace_main(argv: list[str]) -> int:
    """Replace a member by a new one."""
    parser = _parser(
        "replace",
        "Give a damaged or lost member's place to a new one under a new id: it joins, catches up "
        "and votes; then the old one is removed for good. Its directory stays.",
    )
    parser.add_argument("member", help="its id, as `status` shows it")
    given = parser.parse_args(argv)
    return _run(given.data, lambda m: m.replace(given.member), given.member)


def _parser(name: str, text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m cluster {name}", description=text)
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="directory of the cluster (default: data)"
    )
    return parser


def _run(data: Path, change: Callable[[Membership], Awaitable[object]], leaving: str = "") -> int:
    data = data.absolute()

    async def inside() -> None:
        async with opened(data, lambda line: print(line, flush=True), leaving) as membership:
            await change(membership)

    try:
        asyncio.run(inside())
    except AcordoError as exc:
        print(
            f"error: {exc.detail}\n  {exc.advice}; the same command goes on where this one stopped",
            file=sys.stderr,
        )
        return EX_TEMPFAIL
    return 0
