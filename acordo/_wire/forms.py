"""Convert keys, values and transactions to the API's JSON and back. Never sends anything.

Data from a node is checked: whatever is not what the API promises raises `Damaged`.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec

from acordo._errors import BadRequest
from acordo._intents import (
    Delete,
    DeleteRange,
    Guard,
    Intent,
    Nested,
    Write,
    absent,
    at_revision,
    compare,
    delete,
    delete_range,
    equals,
    exists,
    key_bytes,
    nested,
    put,
    touch,
)

LARGE_BYTES: Final = 64 * 1024
"""Of a larger value the shorter form is sent."""


class Damaged(ValueError):
    """An error about an answer that is not what the API promises."""


def to_json(raw: bytes) -> str | dict[str, str]:
    """Return the JSON form of bytes: a string when they are UTF-8, else `{"base64": …}`."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def value_to_json(raw: bytes) -> str | dict[str, str]:
    """Return the shorter JSON form of a large value: a string of control characters takes six times
    its size, and a request with one of 1 MiB would be refused.
    """
    form = to_json(raw)
    if len(raw) > LARGE_BYTES and isinstance(form, str):
        coded = base64.b64encode(raw)
        if len(msgspec.json.encode(form)) > len(coded):
            return {"base64": coded.decode()}
    return form


def from_json(form: object) -> bytes:
    """Return the bytes of a JSON form. Raises Damaged."""
    if isinstance(form, str):
        try:
            return form.encode()
        except UnicodeEncodeError as exc:
            raise Damaged("a lone surrogate in a string") from exc
    if isinstance(form, dict) and set(form) == {"base64"} and isinstance(form["base64"], str):
        try:
            return base64.b64decode(form["base64"], validate=True)
        except ValueError as exc:  # also of characters beyond ASCII
            raise Damaged("broken base64") from exc
    raise Damaged('neither a string nor {"base64": …}')


def from_base64(text: str) -> bytes:
    """Decode base64, padded or not. Raises BadRequest."""
    try:
        return from_json({"base64": text + "=" * (-len(text) % 4)})
    except Damaged as exc:
        raise BadRequest(
            f"{text[:40]!r} is not base64", code="bad_base64", allowed="RFC 4648"
        ) from exc


def intent_of_json(text: bytes) -> Intent:
    """Return the transaction in a JSON text of the API's form. Raises BadRequest."""
    try:
        form = json_object(text)
        unknown = set(form) - {"guards", "writes", "otherwise", "reads", "op_id"}
        if unknown:
            raise Damaged(f"unknown fields {sorted(unknown)}")
        return Intent(
            guards=tuple(_guard_of(each) for each in json_list(form.get("guards", []))),
            writes=tuple(_write_of(each) for each in json_list(form.get("writes", []))),
            otherwise=tuple(_write_of(each) for each in json_list(form["otherwise"]))
            if "otherwise" in form
            else None,
            reads=tuple(key_bytes(from_json(each)) for each in json_list(form.get("reads", []))),
            op_id=form.get("op_id"),
        )
    except (Damaged, KeyError, TypeError, AttributeError) as exc:
        raise BadRequest(
            f"this is no transaction: {exc}",
            code="bad_transaction",
            allowed="the JSON of POST /v1/txn",
        ) from exc


def _guard_of(form: dict[str, Any]) -> Guard:
    key = from_json(form["key"])
    match sorted(set(form) - {"key"}):
        case ["absent"]:
            return absent(key)
        case ["exists"]:
            return exists(key)
        case ["revision"]:
            revisions = form["revision"]
            return at_revision(key, *(revisions if isinstance(revisions, list) else [revisions]))
        case ["value"]:
            return equals(key, from_json(form["value"]))
        case ["compare", "is", "to"] | ["compare", "end", "is", "to"]:
            to = form["to"]
            operand = to if isinstance(to, int) else from_json(to)
            end = from_json(form["end"]) if "end" in form else None
            return compare(key, form["compare"], form["is"], operand, end=end)
    raise Damaged("a guard has exactly one of absent, exists, revision, value, compare")


def _write_of(form: dict[str, Any]) -> Write:
    if set(form) == {"delete"}:
        return delete(from_json(form["delete"]))
    if set(form) == {"delete", "end"}:
        return delete_range(from_json(form["delete"]), from_json(form["end"]))
    names = set(form)
    if names and names <= {"if", "then", "else"}:
        return nested(
            [_guard_of(each) for each in json_list(form.get("if", []))],
            [_write_of(each) for each in json_list(form.get("then", []))],
            [_write_of(each) for each in json_list(form.get("else", []))],
        )
    with_value, bare = {"put", "value"} <= names, {"put", "keep_value"} <= names
    known = {"put", "value", "ttl", "lease", "keep_value", "keep_lease"}
    if with_value is not bare and names <= known:
        key, ttl_s, lease = from_json(form["put"]), form.get("ttl"), form.get("lease")
        keeps = "keep_lease" in form
        if bare:
            return touch(key, ttl_s=ttl_s, lease=lease, keep_lease=keeps)
        value = from_json(form["value"])
        return put(key, value, ttl_s=ttl_s, lease=lease, keep_lease=keeps)
    raise Damaged("a write is put and value (and ttl, lease), delete, or if, then and else")


def intent_json(intent: Intent) -> dict[str, Any]:
    """Return the JSON form of a transaction, without its op_id."""
    body: dict[str, Any] = {}
    if intent.guards:
        body["guards"] = [_guard_json(guard) for guard in intent.guards]
    if intent.writes:
        body["writes"] = [_write_json(write) for write in intent.writes]
    if intent.otherwise is not None:
        body["otherwise"] = [_write_json(write) for write in intent.otherwise]
    if intent.reads:
        body["reads"] = [to_json(key) for key in intent.reads]
    return body


def _guard_json(guard: Guard) -> dict[str, Any]:
    body: dict[str, Any] = {"key": to_json(guard.key)}
    match guard.kind:
        case "compare":
            operand = guard.operand
            body |= {
                "compare": guard.what,
                "is": guard.relation,
                "to": operand if isinstance(operand, int) else to_json(operand),
            }
            if guard.end is not None:
                body["end"] = to_json(guard.end)
        case "absent" | "exists":
            body[guard.kind] = True
        case "revision":
            body["revision"] = (
                guard.revisions[0] if len(guard.revisions) == 1 else list(guard.revisions)
            )
        case _:
            body["value"] = to_json(guard.value or b"")
    return body


def _write_json(write: Write) -> dict[str, Any]:
    if isinstance(write, Nested):
        return {
            "if": [_guard_json(guard) for guard in write.guards],
            "then": [_write_json(each) for each in write.then],
            "else": [_write_json(each) for each in write.otherwise],
        }
    if isinstance(write, Delete):
        return {"delete": to_json(write.key)}
    if isinstance(write, DeleteRange):
        return {"delete": to_json(write.key), "end": to_json(write.end)}
    body: dict[str, Any] = {"put": to_json(write.key)}
    body |= {"keep_value": True} if write.keep_value else {"value": value_to_json(write.value)}
    if write.keep_lease:
        body["keep_lease"] = True
    if write.ttl_s is not None:
        body["ttl"] = write.ttl_s
    return body if write.lease is None else {**body, "lease": write.lease}


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises Damaged."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise Damaged(f"broken JSON: {exc}") from exc
    if not isinstance(answer, dict):
        raise Damaged("not a JSON object")
    return answer


def json_list(value: object) -> list[Any]:
    """Return `value` if it is a JSON array. Raises Damaged."""
    if not isinstance(value, list):
        raise Damaged("not a JSON array where one belongs")
    return value


def integer(value: object) -> int:
    """Return an integer of 0 or more given as text, or any integer given as JSON. Raises
    Damaged.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Damaged(f"not a revision: {value!r}")
