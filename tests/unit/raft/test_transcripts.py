"""Stories of the protocol as text: what goes in, and every message and change that comes out.

Each file in `transcripts/` has commands, `----`, and what they did; a story says in its first lines
what it is about. `REWRITE=1 pytest tests/unit/raft/test_transcripts.py` writes what the code does
now: read the difference before it is committed.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from coordinator.log import PeerAddress
from coordinator.raft.core import compaction
from coordinator.raft.core.rules.membership import Add, Change, Promote, Remove
from kv.errors import BadRequest, KvError
from tests.planted import raft as faults
from tests.planted.registry import planted
from tests.simulation.disk import SimDisk
from tests.unit.raft.story import Stage
from tests.unit.raft.story_text import entry

STORIES: Final = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
RULE: Final = "----"
CHANGED: Final = {
    faults.StockTruncation: "haz_1_acknowledged_entries_stay",
    faults.AcksWithoutTerm: "haz_2_acknowledgement_of_an_older_term",
    faults.TwoVotes: "haz_9_one_vote_in_a_term",
    faults.AckBeforeSync: "acknowledged_is_on_the_disk",
    faults.LateVotes: "late_vote_is_of_another_question",
    faults.CountsOldTerms: "figure_8",
    faults.KeepsWhatWasCutOff: "uncommitted_change_is_cut_off",
    faults.AcksWithLostDisk: "lost_disk",
    faults.MinorityLeads: "haz_8_superseded_leader",
}
"""The story that goes otherwise when a rule is taken away."""
Act = Callable[[Stage, list[str]], None]
COMMANDS: Final[dict[str, Act]] = {}


def command(act: Act) -> Act:
    """Enter what a line of a story that begins with this name does."""
    COMMANDS[act.__name__.rstrip("_").replace("_", "-")] = act
    return act


@command
def batch(stage: Stage, words: list[str]) -> None:
    """Let a message hold so many bytes of entries, and one entry at least."""
    stage.batch_bytes = int(words[0])


@command
def members(stage: Stage, words: list[str]) -> None:
    """Start members: `members A B C`; `joins` among them: who has acknowledged the log is noted."""
    stage.joins = "joins" in words
    names = [word for word in words if word != "joins"]
    stage.first = tuple(PeerAddress(name, f"{name}:1") for name in names)
    for name in names:
        stage.start(name)


@command
def led(stage: Stage, words: list[str]) -> None:
    """Start members, let the first one lead, and commit what its term begins with: `led A B C`.

    Only what came of it is said; how it goes is the story of election.txt.
    """
    members(stage, words)
    names = [word for word in words if word != "joins"]
    elect(stage, [names[0], "by", *names[1:]])
    stage.settle(names)
    stage.lines[:] = [f"    {stage.state(name)}" for name in names]


@command
def start(stage: Stage, words: list[str]) -> None:
    """Start members on the disks that they left, or refuse to."""
    for name in words:
        try:
            stage.start(name)
        except BadRequest as exc:
            stage.say(f"{name} refuses to start: {exc.code}: {exc.detail}")


@command
def crash(stage: Stage, words: list[str]) -> None:
    """End processes, and cut the power: what is not on a disk is gone."""
    for name in words:
        stage.stop(name, power=True)


@command
def wipe(stage: Stage, words: list[str]) -> None:
    """Put an empty disk in the place of a stopped member's."""
    for name in words:
        del stage.disks[name]


@command
def lose_snapshot(stage: Stage, words: list[str]) -> None:
    """Take the snapshot off a stopped member's disk, and leave its log."""
    for name in words:
        stage.disks[name].snapshots = SimDisk(random.Random(2))


@command
def fire(stage: Stage, words: list[str]) -> None:
    """Let the election timer of a member fire."""
    for name in words:
        stage.cores[name].pysyncobj.election_deadline = float("-inf")
        stage.tick(name)


@command
def elect(stage: Stage, words: list[str]) -> None:
    """Let the first one stand, and the others answer, until it leads: `elect A by B C`."""
    name, voters = words[0], words[2:]
    fire(stage, [name])
    for _ in range(2):
        for voter in voters:
            stage.deliver(name, voter)
            stage.deliver(voter, name)


@command
def tick(stage: Stage, words: list[str]) -> None:
    for name in words:
        stage.tick(name)


@command
def heartbeat(stage: Stage, words: list[str]) -> None:
    """Let a leader's heartbeat be due, and tick."""
    for name in words:
        stage.cores[name].pysyncobj.heartbeat_due = float("-inf")
        stage.tick(name)


@command
def wait(stage: Stage, words: list[str]) -> None:
    """Let seconds pass; nobody does anything meanwhile."""
    stage.clock.at_s += float(words[0])


@command
def deliver(stage: Stage, words: list[str]) -> None:
    """Deliver what is on the way, or so many messages: `deliver A B 1`."""
    count = int(words[2]) if len(words) > 2 else 10**6
    if not stage.deliver(words[0], words[1], count):
        stage.say("nothing is on the way")


@command
def settle(stage: Stage, words: list[str]) -> None:
    """Tick and deliver, among all or these, until nothing happens any more."""
    stage.settle(words or sorted(stage.cores))


@command
def lose(stage: Stage, words: list[str]) -> None:
    """Lose what is on the way from one to the other: all, or so many of the first."""
    queue = stage.queues[words[0], words[1]]
    for _ in range(int(words[2]) if len(words) > 2 else len(queue)):
        message = queue.popleft()
        if message["type"] != "contacts":
            stage.say(f"lost: {stage.words.message(message)}")


@command
def keep(stage: Stage, words: list[str]) -> None:
    """Keep back what is on the way, under a name: `keep A B old`."""
    source, target, name = words
    queue = stage.queues[source, target]
    stage.kept[name] = source, target, list(queue)
    queue.clear()


@command
def bring(stage: Stage, words: list[str]) -> None:
    """Let what was kept back arrive now, before all else; `twice`: and again."""
    source, target, kept = stage.kept[words[0]]
    for _ in range(2 if "twice" in words else 1):
        stage.queues[source, target].extendleft(reversed(kept))
    stage.deliver(source, target, len(kept) * (2 if "twice" in words else 1))


@command
def cut(stage: Stage, words: list[str]) -> None:
    """Break the links of the first with the others."""
    stage.cut |= {frozenset((words[0], other)) for other in words[1:]}
    stage.connect()
    for name in words:
        stage.look(name)


@command
def join(stage: Stage, words: list[str]) -> None:
    """Mend the links of the first with the others."""
    stage.cut -= {frozenset((words[0], other)) for other in words[1:]}
    stage.connect()
    for name in words:
        stage.look(name)


@command
def reconnect(stage: Stage, words: list[str]) -> None:
    """Break a link and mend it before anybody ticks."""
    cut(stage, words)
    join(stage, words)


@command
def propose(stage: Stage, words: list[str]) -> None:
    """Order commands at a member: `propose A x y`; `x*90` is 90 bytes long."""
    name = words[0]
    for word in words[1:]:
        text, _, length = word.partition("*")
        done = stage.answered(f"{name} proposed {text}")
        stage.cores[name].commands.propose(text.ljust(int(length or 0), ".").encode(), done)


@command
def order_and_raise(stage: Stage, words: list[str]) -> None:
    """Order a command whose waiter raises."""
    name, word = words

    def answered(result: object, reason: int) -> None:
        stage.answered(f"{name} proposed {word}")(result, reason)
        raise RuntimeError("a waiter's own affair")

    stage.cores[name].commands.propose(word.encode(), answered)


@command
def change(stage: Stage, words: list[str]) -> None:
    """Ask a member for a change: `change A add D`, `promote D`, `remove D`."""
    name, what, member = words
    kinds: dict[str, Change] = {
        "add": Add(member, f"{member}:1"),
        "promote": Promote(member),
        "remove": Remove(member),
    }
    stage.cores[name].commands.change(kinds[what], stage.answered(f"{name} asked: {what} {member}"))


@command
def hand_over(stage: Stage, words: list[str]) -> None:
    """Let a leader tell another to stand: `hand-over A B`."""
    core = stage.cores[words[0]]
    target = core.leader.transfer_target(words[1])
    told = target is not None and core.leader.maybe_hand_over(target)
    stage.say(f"{words[0]} {'tells' if told else 'does not tell'} {words[1]} to stand")


@command
def resign(stage: Stage, words: list[str]) -> None:
    stage.cores[words[0]].leader.resign()
    stage.complete(words[0])


@command
def outrank(stage: Stage, words: list[str]) -> None:
    """Let a member stand for a term above one: `outrank A 5`."""
    stage.cores[words[0]].elections.outrank(int(words[1]))
    stage.complete(words[0])


@command
def snapshot(stage: Stage, words: list[str]) -> None:
    """Let members make a snapshot, and drop what it holds from their logs."""
    for name in words:
        stage.cores[name].compaction.force()
        stage.tick(name)


@command
def disk(stage: Stage, words: list[str]) -> None:
    """Let disks hang, or go on: `disk hangs A B`, `disk syncs A`."""
    for name in words[1:]:
        stage.disks[name].hangs = words[0] == "hangs"
        stage.complete(name)


@command
def log(stage: Stage, words: list[str]) -> None:
    """Say what logs hold."""
    for name in words:
        held = "; ".join(entry(*each) for each in stage.cores[name].log.held())
        stage.say(f"{name}: {held}")


@command
def machine(stage: Stage, words: list[str]) -> None:
    """Say what was applied."""
    for name in words:
        stage.say(f"{name}: {stage.tapes[name].text}")


@command
def configuration(stage: Stage, words: list[str]) -> None:
    """Say who the members are, as these see it."""
    for name in words:
        stage.say(stage.members(name))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Return (commands, what they did) in turn; comments stand with the commands."""
    for block in re.split(r"\n{2,}", text.strip() + "\n"):
        before, rule, after = block.partition(f"\n{RULE}\n")
        yield before.rstrip("\n"), after.rstrip("\n") if rule else ""


def play(text: str) -> str:
    """Return the story with what its commands do now."""
    stage, told = Stage(), []
    try:
        for commands, _ in blocks(text):
            lines = [line for line in commands.splitlines() if not line.startswith("#")]
            stage.lines.clear()
            for line in lines:
                name, *words = line.split()
                COMMANDS[name](stage, words)
            did = "\n".join(stage.lines) or "nothing"
            told.append(f"{commands}\n{RULE}\n{did}" if lines else commands)
    finally:
        stage.close()
    return "\n\n".join(told) + "\n"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_goes_as_it_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "KEEP_ENTRIES", 0)
    text = path.read_text()
    now = play(text)
    if os.environ.get("REWRITE"):
        path.write_text(now)
    assert now == text or os.environ.get("REWRITE")


def test_each_published_hazard_has_a_story() -> None:
    told = set(re.findall(r"HAZ-\d+", " ".join(path.read_text() for path in STORIES)))
    assert {f"HAZ-{number}" for number in range(1, 14)} <= told


@pytest.mark.parametrize(("fault", "story"), CHANGED.items(), ids=str)
def test_a_fault_changes_the_story_that_is_about_it(
    fault: type, story: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "KEEP_ENTRIES", 0)
    text = (Path(__file__).parent / "transcripts" / f"{story}.txt").read_text()
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", fault.__name__).lower()
    with planted(name):
        try:
            now = play(text)
        except (AssertionError, KvError):
            return  # it cannot even be told to its end
    assert now != text
