"""Hold one AMQP connection with a confirming channel, to whichever broker of a list answers.

It reconnects only when asked for a channel, and never resends anything by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Self
from urllib.parse import quote, urlsplit

import aiormq
import structlog
from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ConnectionNotAllowed,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from yarl import URL

from kv.errors import BackendUnavailable, BadRequest

CONNECT_TIMEOUT_S: Final = 2.0
"""For one broker; after that the next one is tried."""
HEARTBEAT_S: Final = 5
KEEP_S: Final = (0.5, 5.0)
"""The shortest and the longest pause between checks of a broken connection."""
OPEN_TIMEOUT_S: Final = 4.0
BROKERS_MAX: Final = 9
FAILURES: Final = (
    AMQPError,
    OSError,
    TimeoutError,
    ssl.SSLError,
    RuntimeError,
    asyncio.InvalidStateError,
)
"""What aiormq raises for a broker that is gone, slow or refuses the call."""

_log = structlog.get_logger("acordo.amqp")


class Gone(ConnectionError):
    """The end of the connection during a call for which aiormq raised something that is not a
    failure by its type.
    """


@contextlib.contextmanager
def failing_plainly() -> Iterator[None]:
    """Make a call to aiormq fail only with FAILURES (among them Gone), or with a cancellation of
    our own.

    On a lost connection aiormq ends waiting calls with StopAsyncIteration, a bare Exception, or a
    CancelledError that nobody requested. A task group treats the last as a child that was
    cancelled, so not as a failure: messages that were never confirmed would count as published
    (INV-6).
    """
    try:
        yield
    except FAILURES:
        raise
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Gone("the connection ended") from exc
    except Exception as exc:
        raise Gone(f"the connection ended: {exc!r}") from exc


Setup = Callable[[AbstractChannel], Awaitable[None]]


class BrokerLink:
    """One connection and one channel, opened when first asked for and again after `drop`.

    `setup` declares what the owner needs, on every new channel.
    """

    def __init__(
        self, url: str, name: str, setup: Setup, *, rng: random.Random | None = None
    ) -> None:
        self._urls = urls_per_broker(url, name)
        self._rng = rng or random.Random()
        self._rng.shuffle(self._urls)
        self._setup = setup
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._making = asyncio.Lock()

    @property
    def up(self) -> bool:
        """Whether a channel to the broker is open."""
        return self._channel is not None and not self._channel.is_closed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.drop()

    async def channel(self, *, timeout_s: float) -> AbstractChannel:
        """Return the open channel, connecting to the next broker if there is none.

        Raises BackendUnavailable, or BadRequest("broadcast_access") for a login or vhost that the
        broker refuses.
        """
        if self.up:
            assert self._channel is not None
            return self._channel
        try:
            async with asyncio.timeout(timeout_s), self._making:
                return (
                    self._channel
                    if self.up and self._channel is not None
                    else await self._connect()
                )
        except TimeoutError as exc:
            raise BackendUnavailable(
                "rabbitmq", f"no broker answered within {timeout_s:g} s"
            ) from exc

    async def keep(self) -> None:
        """Connect, and reconnect whenever the connection is lost, forever.

        Run it beside the owner's own work: even while nothing is published, it shows whether the
        broker is healthy, and lets `setup` declare what is needed.
        """
        pause_s = KEEP_S[0]
        while True:
            if self.up:
                pause_s = KEEP_S[0]
            else:
                try:
                    await self.channel(timeout_s=OPEN_TIMEOUT_S)
                except (BackendUnavailable, BadRequest):
                    pause_s = min(pause_s * 2, KEEP_S[1])
            await asyncio.sleep(pause_s * (0.75 + self._rng.random() / 2))

    async def _connect(self) -> AbstractChannel:
        failure: BaseException | None = None
        await self.drop()
        for url in tuple(self._urls):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    channel = await self._open(url)
            except (AuthenticationError, ProbableAuthenticationError, ConnectionNotAllowed) as exc:
                await self.drop()
                raise BadRequest(
                    "broadcast_access", f"{url.host}: {exc}", allowed="a login and vhost that exist"
                ) from exc
            except FAILURES as exc:
                failure = exc
                await self.drop()
                if isinstance(exc, InvalidFrameError) and "OpenOk" in str(exc):
                    # The broker accepted the login, and then closed the connection instead of
                    # opening the vhost (530 NOT_ALLOWED).
                    raise BadRequest(
                        "broadcast_access",
                        f"{url.host}: the vhost is refused",
                        allowed="a login and vhost that exist",
                    ) from exc
                self._urls.append(self._urls.pop(0))
                continue
            self._channel = channel
            _log.info("broker connected", host=url.host, port=url.port)
            return channel
        raise BackendUnavailable(
            "rabbitmq", f"no broker of {len(self._urls)} can be used: {failure!r}"
        ) from failure

    async def _open(self, url: URL) -> AbstractChannel:
        with failing_plainly():
            connection = aiormq.Connection(url)
            await connection.connect()
            self._connection = connection
            channel = await connection.channel(publisher_confirms=True)
            await self._setup(channel)
            return channel

    async def drop(self) -> None:
        """Close the connection; nothing of it is used again. Never raises, and takes half a second
        at most.
        """
        connection, self._connection, self._channel = self._connection, None, None
        if connection is None:
            return
        try:
            async with asyncio.timeout(0.5):
                with failing_plainly():
                    await connection.close()
        except FAILURES as exc:
            _log.debug("broker connection did not close", reason=repr(exc))


def urls_per_broker(url: str, name: str) -> list[URL]:
    """Return one URL for each broker of amqp://USER:PASSWORD@H1,H2/VHOST. Raises
    BadRequest("broadcast_url").
    """
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    found = [host for host in hosts.split(",") if host]
    vhost = parts.path.removeprefix("/")
    if parts.scheme not in {"amqp", "amqps"} or not found or len(found) > BROKERS_MAX:
        raise BadRequest(
            "broadcast_url", "no broker is named", allowed="amqp://USER:PASSWORD@HOST[,HOST]/VHOST"
        )
    query = "&".join(filter(None, [parts.query, f"heartbeat={HEARTBEAT_S}", f"name={quote(name)}"]))
    path = f"/{vhost}" if vhost else "/"
    try:
        return [
            URL(f"{parts.scheme}://{login}{at}{host}{path}?{query}", encoded=True) for host in found
        ]
    except ValueError as exc:
        raise BadRequest(
            "broadcast_url", str(exc), allowed="amqp://USER:PASSWORD@HOST[,HOST]/VHOST"
        ) from exc
