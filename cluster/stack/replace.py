"""Replace a damaged or lost node by a new member with another id and an empty volume.

The new member gets its state from the others. An id is never reused, because a member that lost its
log could vote twice in a term.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final

from acordo import AcordoError, Client, Cluster, OutcomeUnknown
from acordo import BadRequest as Unacceptable
from cluster.stack.engine import Engine, StackFailed
from cluster.stack.env_file import NODES, StackSettings, changed, read

CALL_TIMEOUT_S: Final = 20.0
PAUSE_S: Final = 1.0


def replace(
    engine: Engine, settings: StackSettings, service: str, wait_s: float, say: Callable[[str], None]
) -> None:
    """Replace one node. Raises StackFailed; calling it again continues where it stopped."""
    asyncio.run(_Replacement(engine, settings, service, wait_s, say).run())


def id_of(settings: StackSettings, service: str) -> str:
    """Return the member id of a service."""
    return settings.get(f"ACORDO_{service.upper()}_ID", service.replace("node", "n"))


def next_id(member: str) -> str:
    """Return the id that follows `member` in its place: n2, n2-2, n2-3 and so on."""
    match = re.fullmatch(r"(.+)-(\d+)", member)
    return f"{match[1]}-{int(match[2]) + 1}" if match else f"{member}-2"


def joiners_list(view: Cluster, new: str, address: str) -> str:
    """Return the list of members that a joining member is started with.

    It holds the current members and the new one itself, which does not vote yet.
    """
    fellows = [
        f"{m.id}={m.raft_address}{'' if m.voter else '/observer'}"
        for m in view.members
        if m.raft_address != address
    ]
    return ",".join([*fellows, f"{new}={address}/observer"])


class _Replacement:
    """The replacement of one node by a new member."""

    def __init__(
        self,
        engine: Engine,
        settings: StackSettings,
        service: str,
        wait_s: float,
        say: Callable[[str], None],
    ) -> None:
        self.engine, self.settings = engine, settings
        self.service, self.wait_s = service, wait_s
        self.say = say
        self.address = f"{service}:9001"
        own = NODES.index(service)
        self.url = settings.urls()[own]
        self.others = [url for n, url in enumerate(settings.urls()) if n != own]

    async def run(self) -> None:
        async with Client(self.others, timeout_s=CALL_TIMEOUT_S) as client:
            view = await self._whole(client)
            old = id_of(self.settings, self.service)
            here = next((m for m in view.members if m.id == old), None)
            begun = self._begun(old)
            if begun and here is not None and not here.voter:
                self.say(
                    f"{old} is a member and has no vote yet: going on with it (to begin anew: "
                    "remove it first)"
                )
                new = old
            elif begun and here is None and not await self._removed_before(client, old):
                new = old
            else:
                if here is not None:
                    await self._removed(client, old)
                    view = await self._whole(client)
                new = next_id(old)
                await asyncio.to_thread(self._emptied, view, new)
            await asyncio.to_thread(self._started)
            await self._joined(client, new)
        self.say(
            f"{new} has taken the place of {self.service}"
            if new == old
            else f"{new} has taken the place of {old}"
        )

    async def _removed_before(self, client: Client, member: str) -> bool:
        """Return whether an id that is not a member was removed before.

        Removing it again changes nothing, and the cluster refuses any other id.
        """
        try:
            await client.remove_member(member, timeout_s=CALL_TIMEOUT_S)
        except Unacceptable as exc:
            if exc.code == "membership_refused":
                return False
            raise StackFailed(
                f"it is not known whether {member} was removed: {exc.detail}"
            ) from exc
        except AcordoError as exc:
            raise StackFailed(
                f"it is not known whether {member} was removed: {exc.detail}"
            ) from exc
        return True

    async def _whole(self, client: Client) -> Cluster:
        try:
            view = await client.cluster(timeout_s=CALL_TIMEOUT_S)
        except AcordoError as exc:
            raise StackFailed(
                f"no other node answers: {exc.detail}. Without a majority nobody can be replaced"
            ) from exc
        if view.leader is None or not view.quorum:
            raise StackFailed(
                "no majority of the voters is heard: bring one of them back first. The same "
                "command goes on from here"
            )
        return view

    async def _removed(self, client: Client, old: str) -> None:
        self.say(f"taking {old} out for good")
        ends = asyncio.get_running_loop().time() + self.wait_s
        while any(m.id == old for m in (await self._whole(client)).members):
            try:
                await client.remove_member(old, timeout_s=CALL_TIMEOUT_S)
            except OutcomeUnknown as exc:  # repeating the removal is harmless
                if asyncio.get_running_loop().time() > ends:
                    raise StackFailed(f"{old} was not seen to be taken out: {exc.detail}") from exc
                await asyncio.sleep(PAUSE_S)
            except AcordoError as exc:
                raise StackFailed(f"{old} cannot be taken out: {exc.detail}") from exc

    def _emptied(self, view: Cluster, new: str) -> None:
        """Remove container and volume, and only then write the new id into the settings.

        This order guarantees that a member named there has an empty volume, even after a crash in
        between.
        """
        if found := self.engine.containers(service=self.service):
            self.engine.docker("rm", "-fv", *found)
        volume = f"{self.engine.project}_{self.service}"
        gone = self.engine.docker("volume", "rm", "-f", volume)
        if not gone.ok:
            raise StackFailed(
                f"volume {volume} cannot be removed: {gone.last(3)}. The same command goes on from "
                "here"
            )
        self.say(f"volume {volume} is removed")
        name = f"ACORDO_{self.service.upper()}"
        changed(self.settings.path, f"{name}_MEMBERS", joiners_list(view, new, self.address))
        changed(self.settings.path, f"{name}_ID", new)

    def _started(self) -> None:
        started = self.engine.compose("up", "-d", "--no-deps", "--no-build", self.service)
        if not started.ok:
            raise StackFailed(
                f"{self.service} did not start: {started.last(5)}. The same command goes on from "
                "here"
            )

    def _begun(self, member: str) -> bool:
        """Return whether an earlier call of this command wrote this id. That call may have been
        completed.
        """
        listed = read(self.settings.path).get(f"ACORDO_{self.service.upper()}_MEMBERS")
        return f"{member}={self.address}/observer" in listed.split(",")

    async def _joined(self, client: Client, new: str) -> None:
        """Add the member, let it catch up, and give it its vote."""
        ends, said = asyncio.get_running_loop().time() + self.wait_s, ""
        for voter in (False, True):
            while True:
                try:
                    await client.add_member(
                        new,
                        raft_address=self.address,
                        url=self.url,
                        voter=voter,
                        timeout_s=CALL_TIMEOUT_S,
                    )
                    break
                except AcordoError as exc:
                    refused = isinstance(exc, Unacceptable) and exc.code == "membership_refused"
                    if refused or asyncio.get_running_loop().time() > ends:
                        raise StackFailed(
                            f"{new} is not a voter yet: {exc.detail}. The same command goes on "
                            "from here"
                        ) from exc
                    if exc.detail != said:
                        said = exc.detail
                        self.say(f"{new} may not vote yet: {said}")
                    await asyncio.sleep(PAUSE_S)
            self.say(f"{new} " + ("votes" if voter else "is a member and catches up"))
