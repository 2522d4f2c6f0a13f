"""Parse answers of the HTTP API into results, and the closing error event of a watch into its
error.

A parser raises `Damaged` when an answer is not what the API promises; the caller then treats the
outcome as unknown. Never guesses what a node meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from acordo import _results as results
from acordo._errors import Pruned, ReadFailed, Undone
from acordo._intents import Intent
from acordo._messages import Reply
from acordo._wire.forms import Damaged, from_json, integer, json_list, json_object


def served(reply: Reply) -> results.Served:
    """Return which node answered, and how fresh its answer is. Raises Damaged unless a node
    answered.
    """
    node = reply.node
    if not node:
        raise Damaged("not answered by a node")
    age = reply.headers.get("Acordo-Age")
    return results.Served(
        node=node,
        position=integer(reply.headers.get("Acordo-Revision")),
        level=reply.headers.get("Acordo-Level"),
        age_ms=int(float(age) * 1000) if age and _is_number(age) else None,
    )


def etag(reply: Reply) -> int:
    """Return the revision in the ETag. Raises Damaged."""
    return integer(reply.headers.get("ETag", "").removeprefix("W/").strip('"'))


def parse_reading(reply: Reply, key: bytes) -> results.Reading:
    """Return the result of a GET of one key. Raises Damaged."""
    who = served(reply)
    if reply.observed.status == 404:
        return results.Reading(key=key, value=None, revision=0, served=who)
    expires = reply.headers.get("Acordo-Expires")
    return results.Found(
        key=key,
        value=reply.body,
        revision=etag(reply),
        expires_ms=None if expires is None else integer(expires),
        lease=reply.headers.get("Acordo-Lease"),
        create_revision=integer(reply.headers.get("Acordo-Create-Revision", "0")),
        version=integer(reply.headers.get("Acordo-Version", "0")),
        served=who,
    )


def parse_written(reply: Reply, op_id: str) -> results.Written:
    """Return the result of a PUT or DELETE of one key. Raises Damaged."""
    who, status = served(reply), reply.observed.status
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
    """Return the result of a transaction. Raises Damaged."""
    who, answer = served(reply), _object(reply)
    branch = answer.get("branch", "then")
    if branch not in ("then", "otherwise"):
        raise Damaged(f"unknown branch {branch!r}")
    return results.TransactionDone(
        op_id=op_id,
        revision=integer(answer.get("revision", who.position)),
        branch=branch,
        reads=tuple(_reading(form, who) for form in json_list(answer.get("reads", []))),
        taken=tuple(bool(each) for each in json_list(answer.get("taken", []))),
        served=who,
        again=bool(answer.get("again")),
    )


def parse_batch(reply: Reply, intents: Sequence[Intent]) -> tuple[results.Item, ...]:
    """Return the outcome of each operation of a batch. Raises Damaged."""
    served(reply)
    forms = json_list(_object(reply).get("results"))
    if len(forms) != len(intents):
        raise Damaged(f"{len(forms)} results for {len(intents)} operations")
    return tuple(
        _item(form, intent.op_id or "") for form, intent in zip(forms, intents, strict=True)
    )


def parse_keys(reply: Reply) -> results.KeyPage:
    """Return a page of keys without values. Raises Damaged."""
    who, answer = served(reply), _object(reply)
    readings = [_reading(form, who) for form in json_list(answer.get("items"))]
    return results.KeyPage(
        keys=tuple((each.key, each.revision) for each in readings),
        token=_token(answer),
        revision=integer(answer.get("revision", who.position)),
        prefixes=tuple(from_json(each) for each in json_list(answer.get("prefixes", []))),
    )


def parse_history(reply: Reply) -> tuple[tuple[results.Change, ...], int | None]:
    """Return versions of a key, and what to go on with. Raises Damaged."""
    answer = _object(reply)
    found = tuple(_version(form) for form in json_list(answer.get("items")))
    before = answer.get("before")
    return found, None if before is None else integer(before)


def _version(form: object) -> results.Change:
    if not isinstance(form, dict):
        raise Damaged("a version that is no object")
    value = form.get("value")
    return results.Change(
        kind="delete" if value is None else "put",
        key=from_json(form.get("key")),
        value=None if value is None else from_json(value),
        revision=integer(form.get("revision")),
        expires_ms=_expiry(form),
        create_revision=integer(form.get("create_revision", 0)),
        version=integer(form.get("version", 0)),
        lease=_lease_named(form),
        last=True,
    )


def parse_page(reply: Reply) -> results.Page:
    """Return a page of keys with their values. Raises Damaged."""
    who, answer = served(reply), _object(reply)
    found = []
    for form in json_list(answer.get("items")):
        reading = _reading(form, who)
        if not isinstance(reading, results.Found):
            raise Damaged("an absent key in a listing")
        found.append(reading)
    revision = integer(answer.get("revision", who.position))
    return results.Page(found=tuple(found), token=_token(answer), revision=revision, served=who)


def parse_count(reply: Reply) -> int:
    """Return how many keys a listing has. Raises Damaged."""
    served(reply)
    return integer(_object(reply).get("count"))


def _token(answer: dict[str, Any]) -> str | None:
    token = answer.get("continue")
    if token is not None and not isinstance(token, str):
        raise Damaged("a token that is no string")
    return token or None


def parse_operation(reply: Reply, op_id: str) -> results.Operation:
    """Return what is known of an op_id. Raises Damaged."""
    served(reply)
    answer = _object(reply)
    return _converted({**answer, "op_id": op_id}, results.Operation)


def parse_accepted(reply: Reply, op_id: str) -> results.Accepted:
    """Return the receipt of an asynchronous write. Raises Damaged."""
    who, answer = served(reply), _object(reply)
    url = (
        answer.get("operation")
        or reply.headers.get("Location")
        or f"/v1/operations/{quote(op_id, safe='')}"
    )
    named = answer.get("op_id")  # the node may have added a prefix
    return results.Accepted(
        op_id=named if isinstance(named, str) else op_id, url=str(url), served=who
    )


def parse_granted(reply: Reply, op_id: str) -> results.Lease:
    """Return the lease that was granted. Raises Damaged."""
    return parse_lease(reply)


def parse_lease(reply: Reply) -> results.Lease:
    """Return a lease. Raises Damaged."""
    served(reply)
    return _lease(_object(reply))


def parse_leases(reply: Reply) -> tuple[tuple[results.Lease, ...], str | None]:
    """Return a page of leases, and what continues after it. Raises Damaged."""
    served(reply)
    answer = _object(reply)
    return tuple(_lease(form) for form in json_list(answer.get("leases"))), _token(answer)


def parse_revoked(reply: Reply, op_id: str) -> int:
    """Return the revision at which a lease was revoked. Raises Damaged."""
    served(reply)
    return integer(_object(reply).get("revision"))


def _lease(form: object) -> results.Lease:
    if not isinstance(form, dict) or not isinstance(form.get("id"), str):
        raise Damaged("not a lease")
    keys = form.get("keys")
    return _converted(
        {
            "id": form["id"],
            "ttl_s": form.get("ttl"),
            "left_s": form.get("left"),
            "keys": None if keys is None else tuple(from_json(key) for key in json_list(keys)),
        },
        results.Lease,
    )


def parse_leader(reply: Reply) -> results.Leader:
    """Return the leader. Raises Damaged."""
    served(reply)
    answer = _object(reply)
    return _converted({**answer, "id": answer.get("id") or answer.get("leader")}, results.Leader)


def parse_cluster(reply: Reply) -> results.Cluster:
    """Return the cluster as the answering node sees it. Raises Damaged."""
    who, answer = served(reply), _object(reply)
    return _converted({"node": who.node, **answer, "raw": answer}, results.Cluster)


def parse_amended(reply: Reply) -> tuple[str, ...]:
    """Return the names of the retentions that changed. Raises Damaged."""
    served(reply)
    return tuple(str(name) for name in json_list(_object(reply).get("changed")))


def parse_adopted(reply: Reply) -> int:
    """Return the settled revision after an adoption. Raises Damaged."""
    served(reply)
    return integer(_object(reply).get("settled"))


def parse_transfer(reply: Reply) -> str:
    """Return the new leader's id. Raises Damaged."""
    served(reply)
    return str(_object(reply).get("leader"))


def parse_ledger(reply: Reply) -> tuple[tuple[results.LedgerRow, ...], int | None]:
    """Return ledger rows and the `seq` at which to continue (None: the end). Raises Damaged."""
    served(reply)
    answer = _object(reply)
    rows = tuple(_converted(form, results.LedgerRow) for form in json_list(answer.get("rows")))
    following = answer.get("next")
    return rows, (integer(following) if following is not None else None)


def parse_change(kind: str, data: bytes, *, last: bool) -> results.Change:
    """Return one change of a watch. Raises Damaged."""
    return _change(kind, json_object(data), last=last)


def parse_changes(reply: Reply) -> results.Changes:
    """Return the changes of a poll. Raises Damaged."""
    form = _object(reply)
    events, position = json_list(form.get("events")), form.get("next")
    if not isinstance(position, str) or not all(isinstance(each, dict) for each in events):
        raise Damaged("a poll without its events, or without next")
    found = [_change(str(each.get("event")), each, last=False) for each in events]
    for at, change in enumerate(found):
        if at + 1 == len(found) or found[at + 1].revision != change.revision:
            found[at] = msgspec.structs.replace(change, last=True)
    if found:
        found[-1] = msgspec.structs.replace(found[-1], position=position)
    return results.Changes(
        events=tuple(found), position=position, revision=parse_event_id(position)
    )


def _change(kind: str, form: dict[str, Any], *, last: bool) -> results.Change:
    key, revision = from_json(form.get("key")), integer(form.get("revision"))
    op_id = form.get("op_id")
    return results.Change(
        kind="put" if kind == "put" else "delete",
        key=key,
        value=from_json(form.get("value")) if kind == "put" else None,
        revision=revision,
        expires_ms=_expiry(form),
        create_revision=integer(form.get("create_revision", 0)),
        version=integer(form.get("version", 0)),
        lease=_lease_named(form),
        op_id=op_id if isinstance(op_id, str) else None,
        last=last,
    )


def parse_event_id(text: str) -> int:
    """Return the revision in the id of a watch event: all before the first dot. Raises Damaged."""
    return integer(text.partition(".")[0])


def raise_watch_error(data: bytes) -> None:
    """Raise the error in a node's closing `error` event, if the watch cannot continue on any
    node.
    """
    form = json_object(data)
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
    return json_object(reply.body)


def _lease_named(form: dict[str, Any]) -> str | None:
    lease = form.get("lease")
    return lease if isinstance(lease, str) else None


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _reading(form: object, who: results.Served) -> results.Reading:
    if not isinstance(form, dict) or "key" not in form:
        raise Damaged("an entry without a key")
    key, revision = from_json(form["key"]), integer(form.get("revision", 0))
    if form.get("value") is None:
        return results.Reading(
            key=key, value=None, revision=revision if "value" not in form else 0, served=who
        )
    return results.Found(
        key=key,
        value=from_json(form["value"]),
        revision=revision,
        expires_ms=_expiry(form),
        create_revision=integer(form.get("create_revision", 0)),
        version=integer(form.get("version", 0)),
        lease=_lease_named(form),
        served=who,
    )


def _expiry(form: dict[str, Any]) -> int | None:
    expires_ms = form.get("expires_ms")
    return None if expires_ms is None else integer(expires_ms)


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


def parse_inspected(line: bytes) -> results.Inspected:
    """Return one line of a check. Raises ReadFailed if it is the reason why that ended early, or
    is cut off.
    """
    try:
        return msgspec.json.decode(line, type=results.Inspected)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        detail = _why_ended(line) or str(exc)
        raise ReadFailed(f"the check ended early: {detail}", reason="verify_cut") from exc


def _why_ended(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=dict[str, dict[str, str]])["ended"]["detail"]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        return ""
