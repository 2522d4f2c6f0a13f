"""The command `acordo check perf`: a bounded load of writes, judged by limits.

It leaves no keys.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import Annotated, Final

import msgspec
import typer

from acordo import _intents as intents
from acordo._cli.exit_codes import NO, OK
from acordo._cli.output import Output
from acordo._cli.shell import ANSWER_S, GlobalOptions, client_of_member, run
from acordo._cli.text import shown, table
from acordo._cli.verdicts import Limits, Summary, missed, summed_up
from acordo._client import Client
from acordo._errors import AcordoError
from acordo._messages import Reply
from acordo._wire import requests

PREFIX: Final = "acordo-check/"
KEYS_MAX: Final = 1000
"""Keys that are written in turn."""
TTL_S: Final = 300.0
"""A check that is killed leaves its keys for so long."""
IN_FLIGHT_MAX: Final = 200
"""Writes under way at a time; more wait, and their wait counts."""
WRITES_MAX: Final = 100_000
_CPU: Final = re.compile(rb"^process_cpu_seconds_total ([0-9.e+-]+)$", re.MULTILINE)

check_app = typer.Typer(help="Check a running cluster under load.", no_args_is_help=True)


@check_app.callback()
def check() -> None:
    """Check a running cluster under load."""


@check_app.command("perf")
def perf(
    context: typer.Context,
    rate: Annotated[
        float, typer.Option(min=1.0, max=5000.0, help="Writes a second that are sent.")
    ] = 100.0,
    seconds: Annotated[float, typer.Option(min=0.1, max=60.0, help="How long.")] = 10.0,
    size: Annotated[int, typer.Option(min=1, max=65536, help="Bytes of each value.")] = 100,
    p99_ms: Annotated[
        float, typer.Option("--p99-ms", min=1.0, help="Highest p99 that passes.")
    ] = 250.0,
) -> None:
    """Send writes at a steady rate and say whether the cluster keeps up: latencies, CPU, pass or
    fail. Leaves with 1 if a write failed, less than 90 % of the rate was reached, or p99 is higher.

    It writes at most 1000 keys under acordo-check/ and deletes them. Latency is counted from when a
    write was due. CPU is in percent of one core, of this process and of each member whose metrics
    it may read.
    """

    async def work(client: Client, output: Output) -> int:
        count = min(int(rate * seconds), WRITES_MAX) or 1
        before = await _cpu_of_members(client, context.obj)
        own, began = time.process_time(), time.monotonic()
        try:
            latencies, failed = await _load(client, count, rate, secrets.token_bytes(size))
            took, used = time.monotonic() - began, time.process_time() - own
        finally:
            await _clean(client)
        after = await _cpu_of_members(client, context.obj)
        cpu = {id: after[id] - at for id, at in before.items() if id in after}
        found = summed_up(latencies, failed, took, used, cpu)
        limits = Limits(rate=rate, p99_ms=p99_ms)
        why = missed(found, limits)
        output.op_id = None
        if output.as_json:
            output.json({**msgspec.to_builtins(found), "passed": not why, "missed": why})
        else:
            _show(output, found, limits, why)
        return NO if why else OK

    run(context, work, spread=True)


async def _load(client: Client, count: int, rate: float, value: bytes) -> tuple[list[float], int]:
    """Send `count` writes at a steady rate; return the latencies of acknowledged ones in seconds,
    and how many others there were.
    """
    latencies: list[float] = []
    failed = 0
    places = asyncio.Semaphore(IN_FLIGHT_MAX)
    began = time.monotonic()

    async def write(n: int, due: float) -> None:
        nonlocal failed
        try:
            await client.put(f"{PREFIX}{n % KEYS_MAX:04}", value, ttl_s=TTL_S)
            latencies.append(time.monotonic() - due)
        except AcordoError:
            failed += 1
        finally:
            places.release()

    async with asyncio.TaskGroup() as tasks:
        for n in range(count):
            due = began + n / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await places.acquire()
            tasks.create_task(write(n, due))
    return latencies, failed


async def _clean(client: Client) -> None:
    try:
        await client.txn(writes=[intents.delete_prefix(PREFIX)])
    except AcordoError:
        return  # they expire


async def _cpu_of_members(client: Client, options: GlobalOptions) -> dict[str, float]:
    """Return how much CPU time each member has used, in seconds, of those who say it."""
    members = (await client.cluster()).members
    urls = {each.id: each.url for each in members if each.url}
    found = await asyncio.gather(*(_cpu_of(url, options) for url in urls.values()))
    return {id: used for id, used in zip(urls, found, strict=True) if used is not None}


async def _cpu_of(url: str, options: GlobalOptions) -> float | None:
    try:
        async with client_of_member(options, url, ANSWER_S) as client:
            return await client._call(requests.plain_get("/metrics"), _cpu, None)
    except AcordoError:
        return None


def _cpu(reply: Reply) -> float | None:
    found = _CPU.search(reply.body)
    return None if found is None else float(found.group(1))


def _show(output: Output, found: Summary, limits: Limits, why: list[str]) -> None:
    output.say(
        f"{found.writes} writes in {found.seconds:g} s: {found.rate:g} writes/s "
        f"of {limits.rate:g}, {found.failed} failed"
    )
    names = ("p50", "p90", "p99", "max")
    figures = (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms)
    output.table(table(("latency", *names), [["ms", *(f"{each:g}" for each in figures)]]))
    cpu = [f"this process {found.client_cpu_percent:g} %"]
    cpu += [f"{shown(id)} {used:g} %" for id, used in sorted(found.member_cpu_percent.items())]
    output.say(f"CPU of one core: {', '.join(cpu)}")
    if why:
        output.say(f"[red]fail: {'; '.join(why)}[/red]")
    else:
        output.say(f"[green]pass[/green]: p99 within {limits.p99_ms:g} ms")
