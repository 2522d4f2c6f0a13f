"""What the stack's commands decide: who is made anew in which turn, what may be missing, who takes
a place.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import cast

import pytest

from acordo import Cluster, Member
from cluster.stack import images
from cluster.stack.containers import ContainerState, judge
from cluster.stack.engine import Done, Engine, StackFailed
from cluster.stack.env_file import NODES, StackSettings
from cluster.stack.replace import joiners_list, next_id
from cluster.stack.rolling import NodeLook, may_go, order


def nodes(
    ready: tuple[bool, ...], leads: int, changed: tuple[bool, ...] = (True,) * 3
) -> list[NodeLook]:
    return [NodeLook(n, changed[i], ready[i], ready[i] and i == leads) for i, n in enumerate(NODES)]


@pytest.mark.parametrize(
    ("ready", "leads"), list(product(product((True, False), repeat=3), range(3)))
)
def test_whoever_serves_nobody_comes_first_and_the_leader_last(
    ready: tuple[bool, ...], leads: int
) -> None:
    seen = nodes(ready, leads)
    turn = order(seen)
    assert sorted(turn) == sorted(NODES)
    serving = [next(n for n in seen if n.service == name) for name in turn]
    assert [n.ready for n in serving] == sorted(n.ready for n in serving)
    if ready[leads]:
        assert turn[-1] == NODES[leads]


def test_only_what_changed_is_made_anew() -> None:
    assert order(nodes((True,) * 3, 0, (False, True, False))) == ["node2"]
    assert order(nodes((True,) * 3, 0, (False,) * 3)) == []


@pytest.mark.parametrize("ready", list(product((True, False), repeat=3)))
def test_a_quorum_serves_while_one_is_away(ready: tuple[bool, ...]) -> None:
    seen = nodes(ready, 0)
    for own, name in enumerate(NODES):
        others = sum(ready) - ready[own]
        assert may_go(name, seen) is (others >= 2 or not ready[own])


def state(service: str, health: str = "healthy") -> ContainerState:
    return ContainerState(f"p_{service}_1", service, "running", health, 0, 0)


COCKROACH = ("cockroach1", "cockroach2", "cockroach3")
ALL = (
    "node1",
    "node2",
    "node3",
    "nginx",
    "postgres",
    *COCKROACH,
    "redis1",
    "sentinel1",
    "rabbit1",
    "worker",
    "prometheus",
)


@pytest.mark.parametrize(
    ("away", "serves"),
    [
        ((), True),
        (("node3",), True),
        (("node2", "node3"), False),
        (("nginx",), False),
        (("postgres",), False),
        (("redis1", "rabbit1", "worker", "prometheus"), True),
        (("cockroach2",), True),
        (("cockroach2", "cockroach3"), False),
    ],
)
def test_it_serves_without_what_others_do(away: tuple[str, ...], serves: bool) -> None:
    made = ContainerState("p_secret_1", "secret", "exited", "-", 0, 0)
    found = judge(
        [made, *(state(n, "unhealthy" if n in away else "healthy") for n in ALL)], engine_far=False
    )
    assert found.serves is serves
    assert {s.service for s in found.troubled} == set(away)


def test_a_door_that_is_not_there_serves_nobody() -> None:
    made = ContainerState("p_secret_1", "secret", "exited", "-", 0, 0)
    there = [
        made,
        *(state(n, "unhealthy" if n == "worker" else "healthy") for n in ALL if n != "nginx"),
    ]
    assert not judge(there, engine_far=False).serves


def test_who_joins_is_told_of_those_in_force_and_does_not_vote_yet() -> None:
    fellows = (
        Member(id="n1", url="", raft_address="node1:9001", voter=True, role="leader"),
        Member(id="n2", url="", raft_address="node2:9001", voter=True, role="unknown"),
        Member(id="o1", url="", raft_address="o1:9001", voter=False, role="observer"),
    )
    view = Cluster(
        node="n1",
        role="leader",
        term=1,
        leader="n1",
        quorum=True,
        settled=0,
        members=fellows,
        raw={},
    )
    assert (
        joiners_list(view, "n2-2", "node2:9001")
        == "n1=node1:9001,o1=o1:9001/observer,n2-2=node2:9001/observer"
    )


def test_an_id_is_never_given_twice() -> None:
    given = ["n2"]
    for _ in range(5):
        given.append(next_id(given[-1]))
    assert given == ["n2", "n2-2", "n2-3", "n2-4", "n2-5", "n2-6"]


class Images:
    """An engine that knows images by name alone."""

    def __init__(self, **named: str) -> None:
        self.named = {
            name.replace("_", "-") + ":local": identity for name, identity in named.items()
        }

    def docker(self, *arguments: str) -> Done:
        if arguments[:2] == ("image", "inspect"):
            found = self.named.get(arguments[2], "")
            return Done(0 if found else 1, found, "")
        assert arguments[0] == "tag"
        self.named[arguments[2]] = self.named.get(arguments[1], arguments[1])
        return Done(0, "", "")

    def made(self, tag: str, **new: str) -> None:
        before = {name: self.named[name] for name in ("acordo-node:local", "acordo-nginx:local")}
        self.named |= {
            name.replace("_", "-") + ":local": identity for name, identity in new.items()
        }
        images.keep(cast(Engine, self), before, tag)


def test_what_was_in_use_together_goes_back_together_and_asked_again_stays() -> None:
    engine = Images(acordo_node="node-a", acordo_nginx="nginx-a")
    engine.made("1", acordo_node="node-b", acordo_nginx="nginx-b")
    engine.made("2", acordo_node="node-c")  # the other one is as it was
    engine.made("2")  # and a start without a change keeps what is kept
    for _ in range(2):
        images.go_back(cast(Engine, engine), StackSettings(Path(".env"), {}), lambda _: None)
        assert (engine.named["acordo-node:local"], engine.named["acordo-nginx:local"]) == (
            "node-b",
            "nginx-b",
        )
    assert engine.named["acordo-node:2"] == "node-c"


def test_images_go_back_all_or_none() -> None:
    engine = Images(acordo_node="node-b", acordo_nginx="nginx-b")
    engine.named["acordo-node:previous"] = "node-a"
    with pytest.raises(StackFailed, match="nothing was changed"):
        images.go_back(cast(Engine, engine), StackSettings(Path(".env"), {}), lambda _: None)
    assert engine.named["acordo-node:local"] == "node-b"
