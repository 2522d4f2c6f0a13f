"""/kv, the API of the original design: JSON in and out, with the key in the query. The rules of /v1
apply.
"""

from __future__ import annotations

from aiohttp import web

from kv.errors import BadRequest
from kv.model import REQUEST_BYTES_MAX, Applied, Delete, Intent, Put
from node.api.keys import conditions, refused
from node.exchange.exchange import Exchange
from node.wire.answers import first_outcome
from node.wire.byte_forms import bytes_from, checked_key, checked_value, json_form, key_from
from node.wire.requests import LegacyForm


def _key(params: dict[str, bytes]) -> bytes:
    if "key" not in params:
        raise BadRequest("missing_parameter", "key is missing", allowed="/kv?key=…")
    return checked_key(params["key"])


async def get(x: Exchange) -> web.Response:
    """Return `{"data": {"key", "value"}}`, or 404."""
    params = x.params("key", "consistency", "min_revision", "max_age")
    key = _key(params)
    ask = x.read_options(
        {name: value.decode("utf-8", "replace") for name, value in params.items() if name != "key"}
    )
    reading = await x.services.reads.get(key, ask, deadline=x.deadline)
    more: dict[str, str] = {"Acordo-Level": reading.level, "Acordo-Source": reading.source}
    version = reading.version
    if version is None or version.value is None:
        return x.problem("key_not_found", "the key is absent", more=more, at=reading.position)
    value = await x.services.reads.store.value_of(version, deadline=x.deadline) or b""
    more["ETag"] = f'"{version.revision}"'
    pair = {"key": json_form(key), "value": json_form(value)}
    answer: dict[str, object] = {"data": pair, "revision": version.revision}
    if version.expires_ms is not None:
        more["Acordo-Expires"] = str(version.expires_ms)
        answer["expires_ms"] = version.expires_ms
    return x.json(answer, revision=reading.position, more=more)


async def put(x: Exchange) -> web.Response:
    """Set a key. Answers 200 whether or not the key existed, as the original API does."""
    op_id = x.take_op_id(x.text_params("op_id"))
    pair = (await x.form(LegacyForm, REQUEST_BYTES_MAX)).data
    key = key_from(pair.key)
    value = checked_value(bytes_from(pair.value, "value"))
    intent = Intent(op_id, 0, conditions(x, key), (Put(key, value),), None, (key,))
    answer = await x.services.writes.one(intent, deadline=x.deadline, lifetime_s=x.lifetime_s)
    revision, outcome, _ = first_outcome(answer)
    if not isinstance(outcome, Applied):
        return refused(x, op_id, answer, "precondition_failed", key)
    more = {"ETag": f'"{revision}"', "Acordo-Op-Id": op_id}
    pair_form = {"key": json_form(key), "value": json_form(value)}
    return x.json({"data": pair_form, "revision": revision}, revision=revision, more=more)


async def delete(x: Exchange) -> web.Response:
    """Delete a key. Answers 404 if it was absent, as the original API does."""
    params = x.params("key", "op_id")
    key = _key(params)
    op_id = x.take_op_id(
        {"op_id": params["op_id"].decode("utf-8", "replace")} if "op_id" in params else {}
    )
    intent = Intent(op_id, 0, conditions(x, key), (Delete(key),), None, (key,))
    answer = await x.services.writes.one(intent, deadline=x.deadline, lifetime_s=x.lifetime_s)
    revision, outcome, _ = first_outcome(answer)
    if not isinstance(outcome, Applied):
        return refused(x, op_id, answer, "precondition_failed", key)
    more = {"Acordo-Op-Id": op_id}
    if not any(outcome.seen):
        already = "the key was absent already"
        return x.problem(
            "key_not_found", already, outcome="not_applied", more=more, at=revision, op_id=op_id
        )
    return x.json(
        {"data": {"key": json_form(key)}, "revision": revision}, revision=revision, more=more
    )
