"""Submit asynchronous writes until each has a definite outcome.

A command whose outcome is not definite is never acknowledged.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog
from prometheus_client import Counter

from acordo import (
    BadRequest,
    Client,
    NotApplied,
    OutcomeUnknown,
    ReadFailed,
    Refused,
    intent_of_json,
)
from backends.rabbitmq.async_writes import Delivery, parse
from kv import errors as kv_errors

RETRY_S: Final = (0.2, 10.0)
"""First and longest pause before a command is submitted again."""
SUBMIT_TIMEOUT_S: Final = 10.0
LIFETIME_S: Final = 12 * 3600.0
"""How long an accepted command may still take effect once a node has it. Nodes limit this to half
the op_id retention. A command is submitted again until one attempt is definite, so the lifetime
must not end when the first attempt expires.
"""

_DONE: Final = Counter("acordo_worker_commands", "Commands by what became of them", ["result"])
_log = structlog.get_logger("acordo.worker")


class Submitter:
    """The consumer that brings each command to a definite outcome."""

    def __init__(self, client: Client, rng: random.Random) -> None:
        self._client, self._rng = client, rng

    async def take(self, delivery: Delivery) -> None:
        """Submit a command until its outcome is definite, then acknowledge it.

        A command that can never work is buried: it goes to the dead letter queue.
        """
        try:
            found = parse(delivery.body)
            intent = intent_of_json(bytes(found.transaction))
        except (kv_errors.BadRequest, BadRequest) as exc:
            await self._bury(delivery, f"{exc.code}: {exc.detail}")
            return
        pause_s = RETRY_S[0]
        while True:
            try:
                await self._client.txn(
                    guards=intent.guards,
                    writes=intent.writes,
                    otherwise=intent.otherwise,
                    reads=intent.reads,
                    op_id=found.op_id,
                    timeout_s=SUBMIT_TIMEOUT_S,
                    lifetime_s=LIFETIME_S,
                )
                result = "applied"
            except Refused:
                # A refusal is a definite outcome. It is recorded under the op_id, where the client
                # finds it.
                result = "refused"
            except BadRequest as exc:
                await self._bury(delivery, f"{exc.code}: {exc.detail}")
                return
            except NotApplied as exc:
                result = "expired" if exc.reason == "expired" else ""
            except (OutcomeUnknown, ReadFailed):
                result = ""
            if result:
                await delivery.ack()
                _DONE.labels(result).inc()
                return
            _DONE.labels("again").inc()
            await asyncio.sleep(pause_s * (0.5 + self._rng.random() / 2))
            pause_s = min(pause_s * 2, RETRY_S[1])

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        await delivery.bury(reason)
        _DONE.labels("buried").inc()
        _log.warning("command buried", reason=reason[:300])
