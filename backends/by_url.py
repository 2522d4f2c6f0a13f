"""Create the adapter that a URL names, importing only the client library that it uses.

It opens nothing: `async with` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.local.broadcast import LocalBroadcast
from backends.local.cache import MemoryCache
from backends.memory.database import MemoryDatabase
from backends.memory.store import MemoryStore
from kv.errors import BadRequest
from kv.model import LedgerRow, RecordedOperation, Version
from kv.ports import Broadcast, Cache, Identity, MemberStore, Store

if TYPE_CHECKING:
    from backends.rabbitmq.async_writes import RabbitAsyncWrites

STORE_FORMS: Final = {
    "memory": "memory://",
    "postgresql": "postgresql://USER:PASSWORD@HOST[,HOST]/DATABASE",
    "postgres": "postgres://USER:PASSWORD@HOST[,HOST]/DATABASE",
    "cockroachdb": "cockroachdb://USER@HOST[,HOST]/DATABASE",
}
CACHE_FORMS: Final = {
    "memory": "memory://",
    "redis": "redis://[:PASSWORD@]HOST[:PORT][/DB]",
    "rediss": "rediss://[:PASSWORD@]HOST[:PORT][/DB]",
    "redis+sentinel": "redis+sentinel://[:PASSWORD@]HOST[,HOST]/MASTER",
}
BROADCAST_FORMS: Final = {
    "local": "local://",
    "amqp": "amqp://USER:PASSWORD@HOST[,HOST]/VHOST",
    "amqps": "amqps://USER:PASSWORD@HOST[,HOST]/VHOST",
}


def store(url: str) -> Store:
    """Return the store that all members share, of `memory://` or of a server's URL. Raises
    BadRequest("store_url").
    """
    if _scheme(url, "store", STORE_FORMS) == "memory":
        _check_bare(url, "store", STORE_FORMS)
        return MemoryStore(MemoryDatabase())
    from backends.postgres.store import PostgresStore

    return PostgresStore.from_url(url)


async def restore(
    url: str,
    identity: Identity,
    row: LedgerRow,
    versions: Callable[[], Iterable[Version]],
    operations: Callable[[], Iterable[RecordedOperation]],
) -> bool:
    """Fill the empty database of a server with what a backup holds; return whether it was empty.
    See `backends.postgres.restoring.restore`.
    """
    if _scheme(url, "store", STORE_FORMS) == "memory":
        raise BadRequest(
            "store_url", "memory:// keeps nothing to restore", allowed="the URL of a server"
        )
    from backends.postgres.restoring import restore as filled

    return await filled(url, identity, row, versions, operations)


def own_store(path: Path) -> MemberStore:
    """Return the store that one member keeps for itself in a file."""
    from backends.replicated.store import SqliteMemberStore

    return SqliteMemberStore(str(path))


def cache(url: str) -> Cache:
    """Return the cache that the URL names. Raises BadRequest("cache_url")."""
    if _scheme(url, "cache", CACHE_FORMS) == "memory":
        _check_bare(url, "cache", CACHE_FORMS)
        return MemoryCache()
    from backends.redis import RedisCache

    return RedisCache.from_url(url)


def broadcast(url: str, cluster: str = "") -> Broadcast:
    """Return the broadcast of a cluster_id at the broker that the URL names. Raises
    BadRequest("broadcast_url").
    """
    if _scheme(url, "broadcast", BROADCAST_FORMS) == "local":
        _check_bare(url, "broadcast", BROADCAST_FORMS)
        return LocalBroadcast()
    from backends.rabbitmq.broadcast import RabbitBroadcast

    return RabbitBroadcast.from_url(url, cluster)


def async_writes(url: str, cluster: str = "") -> RabbitAsyncWrites | None:
    """Return the asynchronous writes at the broadcast's broker; None: the URL names no broker."""
    if _scheme(url, "broadcast", BROADCAST_FORMS) == "local":
        return None
    from backends.rabbitmq.async_writes import RabbitAsyncWrites

    return RabbitAsyncWrites(url, cluster=cluster)


def _scheme(url: str, port: str, forms: Mapping[str, str]) -> str:
    scheme, mark, _ = url.partition("://")
    if not mark or scheme not in forms:
        # the rest of the URL may hold a password
        shown = f"{scheme}://…" if mark else "it has no scheme"
        raise BadRequest(
            f"{port}_url",
            f"the {port}'s URL is not one that is known: {shown}",
            allowed=_allowed(forms),
        )
    return scheme


def _check_bare(url: str, port: str, forms: Mapping[str, str]) -> None:
    scheme, _, rest = url.partition("://")
    if rest:
        raise BadRequest(
            f"{port}_url", f"{scheme}:// takes nothing behind it", allowed=_allowed(forms)
        )


def _allowed(forms: Mapping[str, str]) -> str:
    return ", ".join(forms.values())
