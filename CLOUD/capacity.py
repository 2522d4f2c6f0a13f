"""Estimate what 3, 5 and 7 members carry, near and far from each other: `python -m CLOUD.capacity
[--lang en|pt] [--write]`.

A model of four constants, fitted to measured.toml, and a simulation of closed-loop clients on it.
What was not measured (more than three members, members apart) is an estimate, and is called so; the
errors against what was measured are printed with it. It has no source of chance but a seed.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from CLOUD.costs import PAGES, put

MEASURED: Final = Path(__file__).with_name("measured.toml")
MEMBERS: Final = (3, 5, 7)
SIMULATED_S: Final = 3.0
SYNC_MS: Final = 1.0
"""Time of a sync on a network disk: an assumption, for the disks of the measured machine are faster
and are in the constants already.
"""
PLACES: Final[dict[str, tuple[str, str, tuple[float, ...]]]] = {
    "zones": ("three zones", "três zonas", (0.0, 1.0, 1.0)),
    "near": ("three near regions", "três regiões próximas", (0.0, 15.0, 25.0)),
    "far": ("three far regions", "três regiões distantes", (0.0, 70.0, 85.0)),
}
"""Round trips in ms between the leader's place and each place: assumptions of that order."""
HEADS: Final = {
    "en": (
        *("placed in", "members", "may be lost", "writes/s, 256 clients", "one write, leader"),
        *("one write, elsewhere", "one read, elsewhere"),
    ),
    "pt": (
        *("colocados em", "membros", "podem cair", "escritas/s, 256 clientes"),
        *("uma escrita, líder", "uma escrita, de fora", "uma leitura, de fora"),
    ),
}


@dataclass(frozen=True)
class Model:
    """What CPU a write takes, in µs, and what a request takes alone, in ms."""

    once_us: float
    """Of the member that the client asked."""
    each_us: float
    """Of every member."""
    round_us: float
    """Of a round of Raft, for each member in it."""
    load_share: float
    """CPU that the load takes of the measured machine."""
    group: float
    """Writes in a round with 64 connections: the unit of `round_us`."""
    write_ms: float
    forward_ms: float
    read_ms: float

    def cpu_us(self, members: int, connections: float) -> float:
        """Return the CPU of a write over all members."""
        rounds = self.round_us * members * 64 / connections / self.group
        return self.once_us + self.each_us * members + rounds


def fit(measured: dict[str, Any]) -> Model:
    """Return the model through the measured points.

    A write's CPU is a + b / connections: two points give both. `a` is divided by the measured
    shares, `b` by the members. How many writes share a round is not measured: `group` is what 64
    connections over three nodes make at most, when each node waits for its round.
    """
    low, high = measured["writes"]["64"], measured["writes"]["256"]
    b = (low["cpu_us"] - high["cpu_us"]) / (1 / low["connections"] - 1 / high["connections"])
    a = low["cpu_us"] - b / low["connections"]
    shares, group = measured["shares"], 64 / 3
    once = a * shares["once"] / (shares["once"] + shares["each"])
    used = [w["per_s"] * w["cpu_us"] / 1e6 for w in (low, high)]
    alone = measured["alone"]
    return Model(
        once_us=once,
        each_us=(a - once) / 3,
        round_us=b / 64 / 3 * group,
        load_share=1 - sum(used) / len(used) / measured["cores"],
        group=group,
        write_ms=alone["leader_ms"],
        forward_ms=alone["follower_ms"] - alone["leader_ms"],
        read_ms=alone["read_follower_ms"],
    )


def shared_machine(model: Model, members: int, connections: int, cores: int) -> float:
    """Return the writes in a second where members and load share a machine, as measured."""
    return cores * (1 - model.load_share) * 1e6 / model.cpu_us(members, connections)


def spread(members: int, places: Sequence[float]) -> list[float]:
    """Return the round trip from the leader to every member, placed in turn, itself first."""
    return [places[n % len(places)] for n in range(members)]


def majority_ms(rtts: Sequence[float]) -> float:
    """Return the round trip after which a majority has answered, the leader among it."""
    return sorted(rtts)[len(rtts) // 2]


def simulate(
    model: Model,
    rtts: Sequence[float],
    connections: int,
    *,
    seconds: float = SIMULATED_S,
    seed: int = 7,
) -> float:
    """Return the acknowledged writes in a second of clients that each wait for their answer.

    Clients are spread over the members. A member sends all that it has queued as one Submit, and
    the next one when that is committed. Each member is one process, and does one thing at a time; a
    round costs its members, each write the asked member and all others.
    """
    members, rng = len(rtts), Random(seed)
    majority = majority_ms(rtts) + SYNC_MS
    queues = [0] * members
    for client in range(connections):
        queues[client % members] += 1
    events: list[tuple[float, int, int, int]] = []
    count = itertools.count()
    busy = [0.0] * members
    done, now, end = 0, 0.0, seconds * 1000

    def submit(member: int, at: float) -> None:
        size = queues[member]
        if not size:
            heapq.heappush(events, (at + 0.05, next(count), member, 0))
            return
        queues[member] = 0
        own = (size * model.once_us + model.round_us / 2) / 1000
        ready = max(at, busy[member]) + own
        busy[member] = ready
        arrives = ready + (rtts[member] / 2 if member else 0.0)
        for other in range(members):
            work = (size * model.each_us + model.round_us) / 1000
            busy[other] = max(busy[other], arrives) + work
        back = rtts[member] / 2 if member else 0.0
        jitter = rng.uniform(0.95, 1.05)
        answered = busy[0] + majority * jitter + back
        heapq.heappush(events, (answered, next(count), member, size))

    for member in range(members):
        submit(member, rng.uniform(0, 0.1))
    while events and now < end:
        now, _, member, size = heapq.heappop(events)
        done += size
        queues[member] += size
        submit(member, now)
    return done / (now / 1000)


def estimate(model: Model, members: int, places: Sequence[float]) -> dict[str, float]:
    """Return the estimates for members on machines of their own."""
    rtts = spread(members, places)
    majority, farthest = majority_ms(rtts), max(rtts)
    write = model.write_ms + SYNC_MS + majority
    return {
        "lost": (members - 1) // 2,
        "per_s": simulate(model, rtts, 256),
        "leader_ms": write,
        "away_ms": write + model.forward_ms + farthest,
        # A follower asks the leader, and the leader a majority.
        "read_ms": model.read_ms + majority + farthest,
    }


def errors(model: Model, measured: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return (what, measured, modelled) where there is something to hold the model against."""
    found = []
    for name, each in measured["writes"].items():
        modelled = shared_machine(model, 3, each["connections"], measured["cores"])
        found.append((f"writes/s, {name} connections, one machine", each["per_s"], modelled))
    return found


def table(model: Model, lang: str) -> str:
    """Return the estimates as a table of Markdown."""
    lines = [f"| {' | '.join(HEADS[lang])} |", f"|{' --- |' * len(HEADS[lang])}"]
    for english, portuguese, places in PLACES.values():
        for members in MEMBERS:
            found = estimate(model, members, places)
            cells = [portuguese if lang == "pt" else english, str(members)]
            cells += [f"{found['lost']:.0f}", f"{round(found['per_s'], -2):,.0f}"]
            cells += [f"{found[each]:.0f} ms" for each in ("leader_ms", "away_ms", "read_ms")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def load() -> dict[str, Any]:
    """Return what was measured."""
    return tomllib.loads(MEASURED.read_text())


def main(argv: list[str]) -> int:
    """Print the table and the errors, or write the table into the pages; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m CLOUD.capacity")
    parser.add_argument("--lang", choices=sorted(PAGES), default="en")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(argv)
    measured = load()
    model = fit(measured)
    if options.write:
        for lang, path in PAGES.items():
            path.write_text(put(path.read_text(), "capacity", table(model, lang)))
        return 0
    print(model, table(model, options.lang), sep="\n\n")
    for what, was, modelled in errors(model, measured):
        print(f"{what}: measured {was:,.0f}, modelled {modelled:,.0f}, {modelled / was - 1:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
