"""Choose which server of a store's URL a connection goes to, and check that it can be relied on.

It never returns a connection whose COMMIT may be lost. The only thing it reads from the tables is
where the ledger ends.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import asyncpg  # type: ignore[import-untyped]  # ships no types
import structlog

from backends.postgres import sql
from backends.postgres.dialects import ASKED, Cockroach, Dialect, Postgres
from kv.errors import BadRequest

CONNECT_TIMEOUT_S: Final = 2.0
"""The timeout for one host."""
SURVEY_GRACE_S: Final = 0.5
"""How long to wait for the other hosts once one has answered. A host that is slower is not
compared.
"""

REFUSED: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""The errors of a host that cannot be used right now."""

_log = structlog.get_logger("acordo.store")

Connection = Any
"""asyncpg's pool returns proxies of its own type."""


class LedgerEnd(NamedTuple):
    """The end of a host's ledger; the host with the greatest one is preferred. (-1, …): it has no
    ledger yet.

    The revision counts first: refused committers leave empty rows, so an old primary may have the
    longer ledger.
    """

    last: int
    seq: int
    term: int


NOWHERE: Final = LedgerEnd(-1, -1, -1)


class Hosts:
    """All hosts that a URL names. The one in use is kept. When it is gone, the host whose ledger is
    furthest ahead is used.

    `moved` is awaited when the host in use changes, so that its owner gives up the connections to
    the old one.
    """

    def __init__(self, url: str, rng: random.Random, moved: Callable[[], Awaitable[None]]) -> None:
        cockroach = urlsplit(url).scheme.startswith("cockroach")
        self.dialect: Dialect = Cockroach if cockroach else Postgres
        self._dsns = dsn_per_host(url)
        rng.shuffle(self._dsns)
        self._moved = moved
        self._used: str | None = None
        self._was: str | None = None
        self._warned_of: set[str] = set()

    @property
    def several(self) -> bool:
        """Whether the URL names more than one host."""
        return len(self._dsns) > 1

    @property
    def used(self) -> str:
        """The host in use as host:port; empty before the first connection."""
        return "" if self._used is None else _name(self._used)

    def look_again(self) -> None:
        """Make the next connection compare all hosts first."""
        self._used = None

    async def connect(self, *_: Any, **extra: Any) -> Connection:
        """Return a connection to the host in use, or to the reachable one whose ledger is furthest
        ahead.

        When no host can be used, raises the error of one of them: BadRequest if a host is refused
        only for its settings.
        """
        if self._used is not None:
            try:
                return await self._one(self._used, extra)
            except (*REFUSED, BadRequest):
                if not self.several:
                    raise
                self._used = None
            except asyncio.CancelledError:
                # Whoever asked has no more time. A host that hangs (a stopped machine, a cut
                # network) takes CONNECT_TIMEOUT_S, which may be longer than every caller waits:
                # were it kept, each of them would wait for it in vain, for ever.
                self._used = None
                raise
        dsn, connection = await self._survey(extra)
        self._used = dsn
        if self._was not in {None, dsn}:
            _log.warning("store is another host", host=_name(dsn), before=_name(str(self._was)))
            await self._moved()
        self._was = dsn
        return connection

    async def _survey(self, extra: Mapping[str, Any]) -> tuple[str, Connection]:
        """Connect to all hosts at once, and keep the connection to the one whose ledger is furthest
        ahead.
        """
        asked = {asyncio.ensure_future(self._placed(dsn, extra)): dsn for dsn in self._dsns}
        found: dict[str, tuple[LedgerEnd, Connection]] = {}
        failures: list[Exception] = []
        grace_s: float | None = None
        waiting = set(asked)
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED
                )
                for each in done:
                    try:
                        found[asked[each]] = each.result()
                    except (*REFUSED, BadRequest) as exc:
                        failures.append(exc)
                if not done:
                    break  # hosts that are so slow are not compared
                grace_s = SURVEY_GRACE_S if found else None
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if not found:
            raise max(failures, key=lambda exc: isinstance(exc, BadRequest))
        ahead = max(
            found, key=lambda dsn: (found[dsn][0], dsn == self._was, -self._dsns.index(dsn))
        )
        behind = {_name(dsn): place for dsn, (place, _) in found.items() if dsn != ahead}
        for dsn, (_, connection) in found.items():
            if dsn != ahead:
                connection.terminate()
        if behind:
            _log.warning(
                "several hosts of the store take writes: using the one whose ledger is ahead",
                host=_name(ahead),
                last=found[ahead][0].last,
                others={name: place.last for name, place in behind.items()},
            )
        return ahead, found[ahead][1]

    async def _placed(self, dsn: str, extra: Mapping[str, Any]) -> tuple[LedgerEnd, Connection]:
        connection = await self._one(dsn, extra)
        if not self.several:
            return NOWHERE, connection
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                rows = await connection.fetch(sql.HEAD_NOW)
        except asyncpg.UndefinedTableError:
            return NOWHERE, connection
        except BaseException:
            connection.terminate()
            raise
        return (
            LedgerEnd(rows[0]["c"], rows[0]["a"], rows[0]["b"]) if rows else LedgerEnd(0, 0, 0)
        ), connection

    async def _one(self, dsn: str, extra: Mapping[str, Any]) -> Connection:
        connection = await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            max_cacheable_statement_size=0,
            server_settings={"application_name": "acordo", **ASKED, **self.dialect.asked},
            **extra,
        )
        try:
            # A standby refuses even serializable reads.
            if getattr(connection.get_settings(), "in_hot_standby", "off") == "on":
                raise ConnectionError(f"{_name(dsn)} takes no writes: it is a standby")
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                names = ["transaction_read_only", *self.dialect.relied_on, *self.dialect.doubtful]
                rows = await connection.fetch(sql.SETTINGS, names)
            self._check({row["name"]: row["setting"] for row in rows}, _name(dsn))
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _check(self, found: Mapping[str, str | None], host: str) -> None:
        if found.get("transaction_read_only") == "on":
            raise ConnectionError(
                f"{host} takes no writes: default_transaction_read_only is on there"
            )
        if (wrong := unsafe(found, self.dialect.relied_on)) is not None:
            name, why = wrong
            allowed = " or ".join(sorted(self.dialect.relied_on[name][0]))
            raise BadRequest(
                "store_settings",
                f"{host} has {name} = {found[name]}: {why}",
                allowed=f"{name} = {allowed}",
            )
        for name, (value, why) in self.dialect.doubtful.items():
            if found.get(name) == value and name not in self._warned_of:
                self._warned_of.add(name)
                _log.warning(
                    "store is set up doubtfully", host=host, setting=name, value=value, why=why
                )


def unsafe(
    found: Mapping[str, str | None], relied_on: Mapping[str, tuple[frozenset[str], str]]
) -> tuple[str, str] | None:
    """Return the first setting that a promise relies on and whose value breaks it, and what that
    means.

    A setting that the server does not know (None) is not judged.
    """
    for name, (good, why) in relied_on.items():
        value = found.get(name)
        if value is not None and value.lower() not in good:
            return name, why
    return None


def dsn_per_host(url: str) -> list[str]:
    """Return one DSN for each host named in the URL. Raises BadRequest."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    if not hosts or parts.path in {"", "/"}:
        raise BadRequest(
            "store_url",
            "host or database is missing",
            allowed="postgresql://USER:PASSWORD@HOST[:PORT][,…]/DATABASE",
        )
    port = "26257" if parts.scheme.startswith("cockroach") else "5432"
    query = urlencode([(name, unquote(value)) for name, value in parse_qsl(parts.query)])
    found = []
    for host in hosts.split(","):
        where = host if re.search(r":\d+$", host) else f"{host}:{port}"
        found.append(f"postgresql://{login}{at}{where}{parts.path}{'?' + query if query else ''}")
    return found


def _name(dsn: str) -> str:
    """Return host:port of a DSN, without the login."""
    return urlsplit(dsn).netloc.rpartition("@")[2]
