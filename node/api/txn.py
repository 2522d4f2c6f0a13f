"""POST /v1/txn: run an atomic transaction of guards, writes, otherwise and reads over many keys, at
one revision.

A transaction of reads alone is a read of one store snapshot and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from msgspec import UNSET

from kv.errors import BadRequest, KvError
from kv.model import OPERATIONS_MAX, Applied, Version
from node.api.keys import refused
from node.exchange.exchange import Exchange
from node.wire.answers import (
    ReadAnswer,
    TransactionAnswer,
    first_outcome,
    read_answer,
    version_answer,
)
from node.wire.byte_forms import key_from
from node.wire.requests import TransactionForm, intent_of


async def post(x: Exchange) -> web.Response:
    """Run one transaction."""
    params = x.text_params("op_id")
    form = await x.form(TransactionForm)
    if not (form.guards or form.writes or form.otherwise):
        return await _snapshot(x, form)
    op_id = x.take_op_id(params, form.op_id)
    intent = intent_of(form, op_id)
    answer = await x.services.writes.one(intent, deadline=x.deadline, lifetime_s=x.lifetime_s)
    revision, outcome, again = first_outcome(answer)
    if not isinstance(outcome, Applied):
        return refused(x, op_id, answer, "refused")
    reads = await read_back(x, intent.reads, outcome.seen)
    taken = list(outcome.taken) or UNSET
    done = TransactionAnswer(revision, outcome.branch, reads, again, op_id, taken)
    return x.json(done, revision=revision, more={"Acordo-Op-Id": op_id})


async def _snapshot(x: Exchange, form: TransactionForm) -> web.Response:
    if not form.reads:
        raise BadRequest(
            "empty_transaction", "neither guards, writes nor reads", allowed="at least one of them"
        )
    if len(form.reads) > OPERATIONS_MAX:
        raise BadRequest(
            "too_many_operations", f"{len(form.reads)} reads", allowed=f"up to {OPERATIONS_MAX}"
        )
    keys = [key_from(key) for key in form.reads]
    ends = min(x.deadline, x.services.clock.monotonic() + x.services.settings.store_timeout_s)
    read = await x.services.reads.snapshot(keys, deadline=ends)
    reads = [await _read(x, key, version) for key, version in zip(keys, read.versions, strict=True)]
    head = read.head.last
    more = {"Acordo-Level": "linearizable", "Acordo-Source": "store"}
    return x.json(TransactionAnswer(head, "then", reads), revision=head, more=more)


async def _read(x: Exchange, key: bytes, version: Version | None) -> ReadAnswer:
    if version is None or version.value is None:
        return read_answer(key, 0, None)
    value = await x.services.reads.store.value_of(version, deadline=x.deadline)
    return version_answer(version, value)


async def read_back(x: Exchange, keys: Sequence[bytes], seen: Sequence[int]) -> list[ReadAnswer]:
    """Return a transaction's reads with their values. A value that can no longer be read is left
    out: the transaction took effect, and its answer must say so whatever the store does now.
    """
    places = [(key, revision) for key, revision in zip(keys, seen, strict=False) if revision]
    answers: dict[tuple[bytes, int], ReadAnswer] = {}
    try:
        found = await x.services.store.versions(places, timeout_s=x.left_s) if places else ()
        for place, version in zip(places, found, strict=True):
            value = (
                None
                if version is None
                else await x.services.reads.store.value_of(version, deadline=x.deadline)
            )
            if value is not None and version is not None:
                answers[place] = version_answer(version, value)
    except (KvError, TimeoutError):
        answers = {}
    return [
        answers.get((key, revision)) or read_answer(key, revision, UNSET if revision else None)
        for key, revision in zip(keys, seen, strict=False)
    ]
