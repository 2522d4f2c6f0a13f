"""Complete arguments in a shell: keys, members, leases, tokens, roles and webhooks, as the cluster
has them now. It writes nothing, and completes nothing where no node answers in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import typer

from acordo import _results as results
from acordo._cli.shell import GlobalOptions, client_of, key_of, urls_of
from acordo._cli.text import typed_key
from acordo._client import Client
from acordo._errors import AcordoError

WITHIN_S: Final = 1.0
"""How long a completion may take: somebody waits with a finger on the key."""
COMPLETED_MAX: Final = 200
"""Names that are offered."""
SEPARATOR: Final = "/"

Find = Callable[[Client, str], AsyncIterator[str]]


def keys(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a key, one part between separators at a time, as directories are."""
    return _found(context, incomplete, _keys)


def members(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the id of a member."""
    return _found(context, incomplete, _members)


def victims(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the id of a member, or `leader`."""
    return [each for each in ("leader",) if each.startswith(incomplete)] + members(
        context, incomplete
    )


def leases(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the id of a lease."""
    return _found(context, incomplete, _leases)


def tokens(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the id of a token."""
    return _found(context, incomplete, _tokens)


def roles(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a role."""
    return _found(context, incomplete, _roles)


def webhooks(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a webhook."""
    return _found(context, incomplete, _webhooks)


def levels(incomplete: str) -> list[str]:
    """Complete a read level."""
    return [each for each in results.LEVELS if each.startswith(incomplete)]


async def _keys(client: Client, incomplete: str) -> AsyncIterator[str]:
    async for child in client.children(key_of(incomplete), separator=SEPARATOR):
        yield typed_key(child.name)


async def _members(client: Client, _: str) -> AsyncIterator[str]:
    for each in (await client.cluster()).members:
        yield each.id


async def _leases(client: Client, _: str) -> AsyncIterator[str]:
    async for each in client.leases():
        yield each.id


async def _tokens(client: Client, _: str) -> AsyncIterator[str]:
    for each in await client.tokens():
        yield each.id


async def _roles(client: Client, _: str) -> AsyncIterator[str]:
    for each in await client.roles():
        yield each.name


async def _webhooks(client: Client, _: str) -> AsyncIterator[str]:
    for each in await client.webhooks():
        yield each.name


def _found(context: typer.Context, incomplete: str, find: Find) -> list[str]:
    """Return what `find` yields that begins with what was typed; nothing if it cannot be asked."""

    async def inside() -> list[str]:
        names: list[str] = []
        async with asyncio.timeout(WITHIN_S), client_of(_options(context)) as client:
            async for name in find(client, incomplete):
                if name.startswith(incomplete):
                    names.append(name)
                if len(names) == COMPLETED_MAX:
                    break
        return names

    try:
        return asyncio.run(inside())
    except (AcordoError, OSError):  # a time-out is an OSError
        return []


def _options(context: typer.Context) -> GlobalOptions:
    """Return the options that were typed before the command. Completion runs no callback."""
    given = context.find_root().params

    def path(name: str) -> Path | None:
        return Path(given[name]) if given.get(name) else None

    return GlobalOptions(
        urls=urls_of(given.get("url")),
        as_json=False,
        timeout_s=WITHIN_S,
        ca=path("ca"),
        cert=path("cert"),
        cert_key=path("cert_key"),
        token=given.get("token"),
        token_file=path("token_file"),
    )
