"""Turn what is asked into requests, and answers into results. Pure: never sends, waits or retries.

The only place of the package that knows paths, headers and JSON shapes of the HTTP API. A parser
raises `Damaged` when an answer is not what the API promises: the caller then treats the outcome as
unknown.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from acordo import _results as results
from acordo._errors import BadRequest, Pruned, Undone
from acordo._messages import Reply, Request
from acordo._outcomes import Seen

Bytes: TypeAlias = str | bytes
"""Keys and values: a str stands for its UTF-8 bytes."""
OPERATIONS_MAX: Final = 128
"""Operations in one batch, and guards + writes + otherwise + reads in one transaction."""

_DOTS: Final = {b".": "%2E", b"..": "%2E%2E"}
"""Path segments that URL libraries and proxies would resolve away."""


UNSEEN: Final = Seen(mutation=False, sent=False)


class Damaged(ValueError):
    """The answer is not what the API promises."""


# ---------------------------------------------------------------------------------- keys and values


def as_bytes(given: Bytes, what: str = "key") -> bytes:
    """Return the bytes that a str or bytes stands for. Raises BadRequest for anything else."""
    if isinstance(given, bytes):
        return given
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError as exc:
            raise BadRequest(
                f"the {what} is not valid Unicode", code="not_utf8", allowed="str or bytes"
            ) from exc
    raise BadRequest(
        f"the {what} is a {type(given).__name__}", code="wrong_type", allowed="str or bytes"
    )


def key_bytes(key: Bytes) -> bytes:
    """Return a key's bytes. Raises BadRequest when it is empty: an empty key would name the
    listing.
    """
    raw = as_bytes(key)
    if not raw:
        raise BadRequest("the key is empty", code="key_empty", allowed="1 to 1024 bytes")
    return raw


def to_json(raw: bytes) -> str | dict[str, str]:
    """Return the JSON form of bytes: a string when they are UTF-8, else `{"base64": …}`."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


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
        except binascii.Error as exc:
            raise Damaged("broken base64") from exc
    raise Damaged('neither a string nor {"base64": …}')


def from_base64(text: str) -> bytes:
    """Return the bytes that base64 stands for, padded or not. Raises BadRequest."""
    try:
        return from_json({"base64": text + "=" * (-len(text) % 4)})
    except Damaged as exc:
        raise BadRequest(
            f"{text[:40]!r} is not base64", code="bad_base64", allowed="RFC 4648"
        ) from exc


# -------------------------------------------------------------------------- guards, writes, intents


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """A condition on one key; exactly one of the four is set. Use `absent`, `exists`,
    `at_revision`, `equals`.
    """

    key: bytes
    kind: str
    revisions: tuple[int, ...] = ()
    value: bytes | None = None


def absent(key: Bytes) -> Guard:
    """Hold iff the key is absent."""
    return Guard(key=key_bytes(key), kind="absent")


def exists(key: Bytes) -> Guard:
    """Hold iff the key is present."""
    return Guard(key=key_bytes(key), kind="exists")


def at_revision(key: Bytes, *revisions: int) -> Guard:
    """Hold iff the key is present at one of these revisions; revision 0 alone means absent."""
    if revisions == (0,):
        return absent(key)
    if not revisions or any(
        isinstance(r, bool) or not isinstance(r, int) or r < 1 for r in revisions
    ):
        raise BadRequest(
            "no such revision",
            code="bad_revision",
            allowed="integers from 1, or 0 alone for absent",
        )
    return Guard(key=key_bytes(key), kind="revision", revisions=revisions)


def equals(key: Bytes, value: Bytes) -> Guard:
    """Hold iff the key is present with this very value."""
    return Guard(key=key_bytes(key), kind="value", value=as_bytes(value, "value"))


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """Set a key. Use `put`."""

    key: bytes
    value: bytes
    ttl_s: float | None = None


class Delete(msgspec.Struct, frozen=True, kw_only=True):
    """Make a key absent. Use `delete`."""

    key: bytes


Write: TypeAlias = Put | Delete


def put(key: Bytes, value: Bytes, *, ttl_s: float | None = None) -> Put:
    """Return a write that sets the key."""
    return Put(key=key_bytes(key), value=as_bytes(value, "value"), ttl_s=ttl_s)


def delete(key: Bytes) -> Delete:
    """Return a write that makes the key absent."""
    return Delete(key=key_bytes(key))


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One operation that changes data: if all guards hold then `writes`, else `otherwise` (None:
    refused).
    """

    guards: tuple[Guard, ...] = ()
    writes: tuple[Write, ...] = ()
    otherwise: tuple[Write, ...] | None = None
    reads: tuple[bytes, ...] = ()
    op_id: str | None = None


def intent_of_json(text: bytes) -> Intent:
    """Return the transaction that JSON in the API's form describes. Raises BadRequest."""
    try:
        form = _decoded(text)
        unknown = set(form) - {"guards", "writes", "otherwise", "reads", "op_id"}
        if unknown:
            raise Damaged(f"unknown fields {sorted(unknown)}")
        return Intent(
            guards=tuple(_guard_of(each) for each in _list(form.get("guards", []))),
            writes=tuple(_write_of(each) for each in _list(form.get("writes", []))),
            otherwise=tuple(_write_of(each) for each in _list(form["otherwise"]))
            if "otherwise" in form
            else None,
            reads=tuple(key_bytes(from_json(each)) for each in _list(form.get("reads", []))),
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
    raise Damaged("a guard has exactly one of absent, exists, revision, value")


def _write_of(form: dict[str, Any]) -> Write:
    if set(form) == {"delete"}:
        return delete(from_json(form["delete"]))
    if {"put", "value"} <= set(form) <= {"put", "value", "ttl"}:
        return put(from_json(form["put"]), from_json(form["value"]), ttl_s=form.get("ttl"))
    raise Damaged("a write is put and value (and ttl), or delete")


# ----------------------------------------------------------------------------------------- requests


def path_of(key: bytes) -> str:
    """Return the path of a key."""
    return "/v1/kv/" + (_DOTS.get(key) or quote(key, safe=""))


def with_query(path: str, **given: str | int | float | bytes | None) -> str:
    """Return path and query, leaving out what is None."""
    pairs = [(name.rstrip("_"), value) for name, value in given.items() if value is not None]
    return f"{path}?{urlencode(pairs, quote_via=quote)}" if pairs else path


def _idempotent(op_id: str, headers: Mapping[str, str] = {}) -> dict[str, str]:
    return {"Idempotency-Key": f'"{op_id}"', **headers}


def _preconditions(if_revision: int | None, exists: bool | None) -> dict[str, str]:
    if if_revision is not None and exists is not None:
        raise BadRequest(
            "two conditions on one key", code="two_conditions", allowed="if_revision or exists"
        )
    if if_revision == 0 or exists is False:
        return {"If-None-Match": "*"}
    if if_revision is not None:
        if isinstance(if_revision, bool) or not isinstance(if_revision, int) or if_revision < 0:
            raise BadRequest("no such revision", code="bad_revision", allowed="an integer from 0")
        return {"If-Match": f'"{if_revision}"'}
    return {"If-Match": "*"} if exists else {}


def get_request(
    key: bytes,
    *,
    level: results.Level | None = None,
    min_revision: int | None = None,
    max_age_s: float | None = None,
    revision: int | None = None,
) -> Request:
    path = with_query(
        path_of(key),
        # the default; saves the node a query to parse
        consistency=None if level == "linearizable" else level,
        min_revision=min_revision,
        max_age=max_age_s,
        revision=revision,
    )
    return Request(method="GET", path=path, key=key, absent_is_answer=True)


def put_request(
    key: bytes,
    value: bytes,
    op_id: str,
    *,
    ttl_s: float | None,
    if_revision: int | None,
    exists: bool | None,
) -> Request:
    return Request(
        method="PUT",
        path=with_query(path_of(key), ttl=ttl_s),
        headers=_idempotent(
            op_id,
            {"Content-Type": "application/octet-stream", **_preconditions(if_revision, exists)},
        ),
        body=value,
        mutation=True,
        op_id=op_id,
        key=key,
    )


def delete_request(
    key: bytes, op_id: str, *, if_revision: int | None, exists: bool | None
) -> Request:
    return Request(
        method="DELETE",
        path=path_of(key),
        headers=_idempotent(op_id, _preconditions(if_revision, exists)),
        mutation=True,
        op_id=op_id,
        key=key,
        absent_is_answer=True,
    )


def txn_request(intent: Intent, *, lifetime_s: float | None = None) -> Request:
    """Return a transaction. One with reads alone changes nothing and carries no op_id."""
    lasting = {} if lifetime_s is None else {"Acordo-Lifetime": f"{lifetime_s:.3f}"}
    mutation = bool(intent.writes or intent.otherwise)
    return Request(
        method="POST",
        path="/v1/txn",
        headers={
            "Content-Type": "application/json",
            **(_idempotent(intent.op_id or "", lasting) if mutation else {}),
        },
        body=_encode(_intent_json(intent)),
        mutation=mutation,
        op_id=intent.op_id if mutation else None,
    )


def batch_request(intents: Sequence[Intent]) -> Request:
    """Return a batch; every intent brings its own op_id."""
    operations = [{**_intent_json(intent), "op_id": intent.op_id} for intent in intents]
    return Request(
        method="POST",
        path="/v1/batch",
        headers={"Content-Type": "application/json"},
        body=_encode({"operations": operations}),
        mutation=True,
        op_id=intents[0].op_id,
    )


def async_request(intent: Intent) -> Request:
    return Request(
        method="POST",
        path="/v1/async",
        headers={"Content-Type": "application/json", **_idempotent(intent.op_id or "")},
        body=_encode(_intent_json(intent)),
        mutation=True,
        op_id=intent.op_id,
    )


def list_request(
    prefix: bytes,
    *,
    limit: int,
    token: str | None = None,
    min_revision: int | None = None,
    keys_only: bool = False,
) -> Request:
    path = with_query(
        "/v1/kv",
        prefix=prefix,
        limit=limit,
        continue_=token,
        min_revision=min_revision,
        keys_only="true" if keys_only else None,
    )
    return Request(method="GET", path=path)


def operation_request(op_id: str, *, settle: bool = False) -> Request:
    """Return a look-up; with `settle` one that cancels what nobody knows."""
    path = f"/v1/operations/{quote(op_id, safe='')}"
    return Request(method="POST", path=path, body=b"") if settle else plain_get(path)


def ledger_request(start: int, limit: int) -> Request:
    return plain_get(with_query("/v1/ledger", from_=start, limit=limit))


def watch_request(prefix: bytes, after: int) -> Request:
    return Request(
        method="GET",
        path=with_query("/v1/watch", prefix=prefix),
        headers={"Accept": "text/event-stream", "Last-Event-ID": str(after)},
    )


def plain_get(path: str) -> Request:
    return Request(method="GET", path=path)


def transfer_request(to: str | None) -> Request:
    return _post("/v1/cluster/transfer", {} if to is None else {"to": to})


def add_member_request(member: str, raft_address: str, url: str, voter: bool) -> Request:
    return _post(
        "/v1/cluster/members",
        {"id": member, "raft_address": raft_address, "url": url, "voter": voter},
    )


def promote_request(member: str) -> Request:
    return _post(f"/v1/cluster/members/{quote(member, safe='')}/promote", {})


def amend_request() -> Request:
    return _post("/v1/cluster/limits", {})


def adopt_request(gives_up: int | None) -> Request:
    return _post("/v1/cluster/adopt", {} if gives_up is None else {"gives_up": gives_up})


def remove_member_request(member: str) -> Request:
    return Request(
        method="DELETE", path=f"/v1/cluster/members/{quote(member, safe='')}", mutation=True
    )


def _post(path: str, body: object) -> Request:
    return Request(
        method="POST",
        path=path,
        headers={"Content-Type": "application/json"},
        body=_encode(body),
        mutation=True,
    )


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value)


def _intent_json(intent: Intent) -> dict[str, Any]:
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
    if isinstance(write, Delete):
        return {"delete": to_json(write.key)}
    body = {"put": to_json(write.key), "value": to_json(write.value)}
    return body if write.ttl_s is None else {**body, "ttl": write.ttl_s}


# ------------------------------------------------------------------------------------------ answers


def served(reply: Reply) -> results.Served:
    """Return who answered. Raises Damaged unless a node did."""
    node = reply.node
    if not node:
        raise Damaged("not answered by a node")
    age = reply.headers.get("Acordo-Age")
    return results.Served(
        node=node,
        position=_integer(reply.headers.get("Acordo-Revision")),
        level=reply.headers.get("Acordo-Level"),
        age_ms=int(float(age) * 1000) if age and _is_number(age) else None,
    )


def etag(reply: Reply) -> int:
    """Return the revision in the ETag. Raises Damaged."""
    return _integer(reply.headers.get("ETag", "").removeprefix("W/").strip('"'))


def parse_reading(reply: Reply, key: bytes) -> results.Reading:
    who = served(reply)
    if reply.seen.status == 404:
        return results.Reading(key=key, value=None, revision=0, served=who)
    expires = reply.headers.get("Acordo-Expires")
    expires_ms = None if expires is None else _integer(expires)
    return results.Found(
        key=key, value=reply.body, revision=etag(reply), expires_ms=expires_ms, served=who
    )


def parse_written(reply: Reply, op_id: str) -> results.Written:
    """Return what a PUT or DELETE of one key did."""
    who, status = served(reply), reply.seen.status
    answer = _object(reply) if reply.body and status != 404 else {}
    existed = answer.get("existed")
    if existed is None and "created" in answer:
        existed = not answer["created"]
    if existed is None:
        existed = {201: False, 404: False}.get(status or 0)
    revision = answer.get("revision")
    if not isinstance(revision, int):
        revision = etag(reply) if "ETag" in reply.headers else who.position
    return results.Written(
        op_id=op_id, revision=revision, served=who, existed=existed, again=bool(answer.get("again"))
    )


def parse_transaction(reply: Reply, op_id: str | None) -> results.TransactionDone:
    who, answer = served(reply), _object(reply)
    branch = answer.get("branch", "then")
    if branch not in ("then", "otherwise"):
        raise Damaged(f"unknown branch {branch!r}")
    return results.TransactionDone(
        op_id=op_id,
        revision=_integer(answer.get("revision", who.position)),
        branch=branch,
        reads=tuple(_reading(form, who) for form in _list(answer.get("reads", []))),
        served=who,
        again=bool(answer.get("again")),
    )


def parse_batch(reply: Reply, intents: Sequence[Intent]) -> tuple[results.Item, ...]:
    served(reply)
    forms = _list(_object(reply).get("results"))
    if len(forms) != len(intents):
        raise Damaged(f"{len(forms)} results for {len(intents)} operations")
    return tuple(
        _item(form, intent.op_id or "") for form, intent in zip(forms, intents, strict=True)
    )


def parse_keys(reply: Reply) -> results.KeyPage:
    """Return a page of keys alone."""
    who, answer = served(reply), _object(reply)
    readings = [_reading(form, who) for form in _list(answer.get("items"))]
    return results.KeyPage(
        keys=tuple((each.key, each.revision) for each in readings),
        token=_token(answer),
        revision=_integer(answer.get("revision", who.position)),
    )


def parse_page(reply: Reply) -> results.Page:
    who, answer = served(reply), _object(reply)
    found = []
    for form in _list(answer.get("items")):
        reading = _reading(form, who)
        if not isinstance(reading, results.Found):
            raise Damaged("an absent key in a listing")
        found.append(reading)
    revision = _integer(answer.get("revision", who.position))
    return results.Page(found=tuple(found), token=_token(answer), revision=revision, served=who)


def _token(answer: dict[str, Any]) -> str | None:
    token = answer.get("continue")
    if token is not None and not isinstance(token, str):
        raise Damaged("a token that is no string")
    return token or None


def parse_operation(reply: Reply, op_id: str) -> results.Operation:
    served(reply)
    answer = _object(reply)
    return _converted({**answer, "op_id": op_id}, results.Operation)


def parse_accepted(reply: Reply, op_id: str) -> results.Accepted:
    who, answer = served(reply), _object(reply)
    url = (
        answer.get("operation")
        or reply.headers.get("Location")
        or f"/v1/operations/{quote(op_id, safe='')}"
    )
    named = answer.get("op_id")  # the node may have put something before it
    return results.Accepted(
        op_id=named if isinstance(named, str) else op_id, url=str(url), served=who
    )


def parse_leader(reply: Reply) -> results.Leader:
    served(reply)
    answer = _object(reply)
    return _converted({**answer, "id": answer.get("id") or answer.get("leader")}, results.Leader)


def parse_cluster(reply: Reply) -> results.Cluster:
    who, answer = served(reply), _object(reply)
    return _converted({"node": who.node, **answer, "raw": answer}, results.Cluster)


def parse_amended(reply: Reply) -> tuple[str, ...]:
    served(reply)
    return tuple(str(name) for name in _list(_object(reply).get("changed")))


def parse_adopted(reply: Reply) -> int:
    served(reply)
    return _integer(_object(reply).get("settled"))


def parse_transfer(reply: Reply) -> str:
    served(reply)
    return str(_object(reply).get("leader"))


def parse_ledger(reply: Reply) -> tuple[tuple[results.LedgerRow, ...], int | None]:
    """Return ledger rows and the `seq` to go on from (None: the end)."""
    served(reply)
    answer = _object(reply)
    rows = tuple(_converted(form, results.LedgerRow) for form in _list(answer.get("rows")))
    following = answer.get("next")
    return rows, (_integer(following) if following is not None else None)


def parse_change(kind: str, data: bytes, *, last: bool) -> results.Change:
    """Return one change of a watch."""
    form = _decoded(data)
    key, revision = from_json(form.get("key")), _integer(form.get("revision"))
    op_id = form.get("op_id")
    return results.Change(
        kind="put" if kind == "put" else "delete",
        key=key,
        value=from_json(form.get("value")) if kind == "put" else None,
        revision=revision,
        expires_ms=_expiry(form),
        op_id=op_id if isinstance(op_id, str) else None,
        last=last,
    )


def parse_event_id(text: str) -> int:
    return _integer(text)


def raise_watch_error(data: bytes) -> None:
    """Raise what a node's closing `error` event says when the watch cannot go on."""
    form = _decoded(data)
    if form.get("status") == 410 or form.get("code") == "pruned":
        floor, after = form.get("floor"), form.get("undone_after")
        detail, kept = (
            str(form.get("detail") or "pruned"),
            floor if isinstance(floor, int) else None,
        )
        if form.get("code") == "undone":
            raise Undone(detail, after=after if isinstance(after, int) else 0, floor=kept)
        raise Pruned(detail, floor=kept)


def _object(reply: Reply) -> dict[str, Any]:
    return _decoded(reply.body)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise Damaged(f"broken JSON: {exc}") from exc
    if not isinstance(answer, dict):
        raise Damaged("not a JSON object")
    return answer


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise Damaged("not a JSON array where one belongs")
    return value


def _integer(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Damaged(f"not a revision: {value!r}")


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _reading(form: object, who: results.Served) -> results.Reading:
    if not isinstance(form, dict) or "key" not in form:
        raise Damaged("an entry without a key")
    key, revision = from_json(form["key"]), _integer(form.get("revision", 0))
    if form.get("value") is None:
        return results.Reading(
            key=key, value=None, revision=revision if "value" not in form else 0, served=who
        )
    value, expires_ms = from_json(form["value"]), _expiry(form)
    return results.Found(key=key, value=value, revision=revision, expires_ms=expires_ms, served=who)


def _expiry(form: dict[str, Any]) -> int | None:
    expires_ms = form.get("expires_ms")
    return None if expires_ms is None else _integer(expires_ms)


def _item(form: object, op_id: str) -> results.Item:
    if not isinstance(form, dict):
        raise Damaged("a result that is no object")
    return _converted({**form, "op_id": op_id}, results.Item)


_T = TypeVar("_T")


def _converted(form: object, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(form, kind, strict=True)
    except msgspec.ValidationError as exc:
        raise Damaged(str(exc)) from exc
