"""Replacing a node of the stack: cut off anywhere, the same command comes to the end, and no id is
used twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Self, cast

import pytest

from acordo import BadRequest, Cluster, Member
from cluster.stack import replace as replacing
from cluster.stack.engine import Done, Engine
from cluster.stack.env_file import changed, read

ADDRESS = "node2:9001"


class Cut(BaseException):
    """The command is ended here."""


class World:
    """Members, ids that were removed, the node's volume, and a count of steps at one of which the
    command is cut.
    """

    def __init__(self, cut: int = 0) -> None:
        self.voters = {"n1": "node1:9001", "n2": ADDRESS, "n3": "node3:9001"}
        self.joining: dict[str, str] = {}
        self.retired: set[str] = set()
        self.volume, self.runs = "n2", "n2"
        self.steps, self.cut = 0, cut

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.cut:
            raise Cut

    # --------------------------------------------------------------------------------- the client's

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def cluster(self, **_: object) -> Cluster:
        members = tuple(
            Member(id=i, url="", raft_address=a, voter=i in self.voters, role="unknown")
            for i, a in (self.voters | self.joining).items()
        )
        return Cluster(
            node="n1",
            role="leader",
            term=1,
            leader="n1",
            quorum=True,
            settled=0,
            members=members,
            raw={},
        )

    async def remove_member(self, member: str, **_: object) -> None:
        if member not in {*self.voters, *self.joining, *self.retired}:
            raise BadRequest(f"{member} is not a member", code="membership_refused", status=409)
        self.voters.pop(member, None)
        self.joining.pop(member, None)
        self.retired.add(member)
        self.step()

    async def add_member(
        self, member: str, *, raft_address: str, url: str, voter: bool, **_: object
    ) -> None:
        if member in self.retired:
            raise BadRequest(f"{member} was removed", code="membership_refused", status=409)
        assert self.runs == self.volume == member, (
            "who joins runs, on a volume that nobody else wrote"
        )
        self.joining[member] = raft_address
        if voter:
            self.voters[member] = self.joining.pop(member)
        self.step()


class Containers:
    """The engine, of one node."""

    project = "p"

    def __init__(self, world: World, env: Path) -> None:
        self.world, self.env = world, env

    def containers(self, **_: object) -> list[str]:
        return ["c2"] if self.world.runs else []

    def docker(self, *arguments: str) -> Done:
        if arguments[:2] == ("volume", "rm"):
            assert not self.world.runs
            self.world.volume = ""
        else:
            self.world.runs = ""
        self.world.step()
        return Done(0, "", "")

    def compose(self, *_: str) -> Done:
        own = replacing.id_of(read(self.env), "node2")
        self.world.volume = self.world.volume or own
        self.world.runs = own
        self.world.step()
        return Done(0, "", "")


def run(world: World, env: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(replacing, "Client", lambda urls, **_: world)

    def stepped(path: Path, name: str, value: str) -> None:
        changed(path, name, value)
        world.step()

    with monkeypatch.context() as patched:
        patched.setattr(replacing, "changed", stepped)
        engine = cast(Engine, Containers(world, env))
        replacing.replace(engine, read(env), "node2", 1.0, said.append)
    return said


def members(world: World) -> Sequence[str]:
    assert not world.joining
    return sorted(world.voters)


@pytest.fixture
def env(tmp_path: Path) -> Path:
    path = tmp_path / "env"
    path.write_text("")
    return path


def test_a_node_is_replaced_again_and_again(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    for new in ("n2-2", "n2-3", "n2-4"):
        run(world, env, monkeypatch)
        assert members(world) == ["n1", new, "n3"]


@pytest.mark.parametrize("second", [False, True])
def test_cut_off_anywhere_the_same_command_comes_to_the_end(
    second: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cut in itertools.count(1):
        env = tmp_path / f"env{cut}"
        env.write_text("")
        world = World()
        if second:
            run(world, env, monkeypatch)
        world.steps, world.cut = 0, cut
        new = replacing.next_id(world.runs)
        try:
            run(world, env, monkeypatch)
        except Cut:
            done = new in world.voters  # then the same command is a new one
            run(world, env, monkeypatch)
            assert members(world) == ["n1", replacing.next_id(new) if done else new, "n3"]
        else:
            break
        assert not world.retired & {*world.voters}
    assert cut > 7, "there are as many steps"
