"""Ask every member how it is, all at once, each by its own URL. It changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from acordo._cli.health import Health, healths
from acordo._cli.shell import ANSWER_S, GlobalOptions, client_of_member
from acordo._client import Client
from acordo._errors import AcordoError, BadRequest
from acordo._messages import Reply
from acordo._results import Cluster
from acordo._wire import requests
from acordo._wire.forms import Damaged

MEMBERS_MAX: Final = 32
"""Members that are asked one by one."""


async def look(client: Client, options: GlobalOptions) -> tuple[Cluster, list[Health]]:
    """Return the cluster as one node sees it, and the health of each member. Raises ReadFailed,
    Unreachable.
    """
    seen = await client.cluster()
    urls = {each.id: each.url for each in seen.members[:MEMBERS_MAX] if each.url}
    said = await asyncio.gather(*(_ask(url, options) for url in urls.values()))
    asked = {id: cluster for id, (cluster, _) in zip(urls, said, strict=True)}
    checks = {id: degraded for id, (_, degraded) in zip(urls, said, strict=True)}
    return seen, [_with_degraded(each, checks.get(each.member.id)) for each in healths(seen, asked)]


async def _ask(url: str, options: GlobalOptions) -> tuple[Cluster | str, Mapping[str, str]]:
    """Return what a member says of itself, or why it says nothing, and its degraded back ends."""
    try:
        async with client_of_member(options, url, ANSWER_S) as client:
            cluster = await client.cluster()
            try:
                return cluster, await client._call(requests.plain_get("/health"), _checks, None)
            except (AcordoError, OSError):  # 503: `unready` of its answer says why
                return cluster, {}
    except BadRequest as error:
        return error.detail, {}
    except AcordoError as error:
        return error.detail.partition("last ")[2] or error.detail, {}


def _checks(reply: Reply) -> dict[str, str]:
    """Return the checks that found trouble. Raises Damaged."""
    try:
        checks = msgspec.json.decode(reply.body)["checks"]
        return {str(name): str(state) for name, state in checks.items() if state != "ok"}
    except (
        msgspec.MsgspecError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as exc:
        raise Damaged(f"not the health of a node: {exc!r}") from exc


def _with_degraded(health: Health, degraded: Mapping[str, str] | None) -> Health:
    if not degraded or health.state != "ready":
        return health
    why = "; ".join(f"{name}: {state}" for name, state in degraded.items())
    return msgspec.structs.replace(health, state="degraded", why=why)
