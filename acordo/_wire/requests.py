"""Convert calls into requests of the HTTP API: paths, headers and bodies.

Never sends anything, and never looks at an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from acordo import _results as results
from acordo._errors import BadRequest
from acordo._intents import Intent
from acordo._messages import Request
from acordo._results import Level
from acordo._wire.forms import intent_json, to_json

_DOTS: Final = {b".": "%2E", b"..": "%2E%2E"}
"""Path segments that URL libraries and proxies would resolve away."""


def path_of(key: bytes) -> str:
    """Return the path of a key, percent-encoded."""
    return "/v1/kv/" + (_DOTS.get(key) or quote(key, safe=""))


def with_query(path: str, **given: str | int | float | bytes | None) -> str:
    """Return a path with its query; parameters that are None are left out."""
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
    level: Level | None = None,
    min_revision: int | None = None,
    max_age_s: float | None = None,
    revision: int | None = None,
) -> Request:
    """Return a request to read one key."""
    path = with_query(
        path_of(key),
        # The default level is left out, which saves the node parsing a query.
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
    lease: str | None = None,
    if_revision: int | None,
    exists: bool | None,
) -> Request:
    """Return a write of one key. Raises BadRequest for contradictory or invalid conditions."""
    return Request(
        method="PUT",
        path=with_query(path_of(key), ttl=ttl_s, lease=lease),
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
    """Return a deletion of one key. Raises BadRequest for contradictory or invalid conditions."""
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
    """Return a transaction. A transaction of reads alone changes nothing and carries no op_id."""
    lasting = {} if lifetime_s is None else {"Acordo-Lifetime": f"{lifetime_s:.3f}"}
    mutation = bool(intent.writes or intent.otherwise)
    return Request(
        method="POST",
        path="/v1/txn",
        headers={
            "Content-Type": "application/json",
            **(_idempotent(intent.op_id or "", lasting) if mutation else {}),
        },
        body=_encode(intent_json(intent)),
        mutation=mutation,
        op_id=intent.op_id if mutation else None,
    )


def batch_request(intents: Sequence[Intent]) -> Request:
    """Return a batch; every intent has its own op_id."""
    operations = [{**intent_json(intent), "op_id": intent.op_id} for intent in intents]
    return Request(
        method="POST",
        path="/v1/batch",
        headers={"Content-Type": "application/json"},
        body=_encode({"operations": operations}),
        mutation=True,
        op_id=intents[0].op_id,
    )


def async_request(intent: Intent) -> Request:
    """Return a request to hand a transaction to the broker."""
    return Request(
        method="POST",
        path="/v1/async",
        headers={"Content-Type": "application/json", **_idempotent(intent.op_id or "")},
        body=_encode(intent_json(intent)),
        mutation=True,
        op_id=intent.op_id,
    )


def list_request(
    prefix: bytes,
    *,
    limit: int,
    token: str | None = None,
    min_revision: int | None = None,
    revision: int | None = None,
    end: bytes | None = None,
    keys_only: bool = False,
    sort: str | None = None,
    descending: bool = False,
    count_only: bool = False,
    separator: bytes | None = None,
) -> Request:
    """Return a request for a page of a listing; `token` continues after the page before. With an
    `end`, the keys from `prefix` on and before it are listed.
    """
    bounds = {"prefix": prefix} if end is None else {"start": prefix, "end": end}
    path = with_query(
        "/v1/kv",
        **bounds,
        limit=limit,
        continue_=token,
        min_revision=min_revision,
        revision=revision if token is None else None,
        keys_only="true" if keys_only else None,
        sort=sort,
        order="desc" if descending else None,
        count_only="true" if count_only else None,
        separator=separator,
    )
    return Request(method="GET", path=path)


def history_request(key: bytes, *, limit: int, before: int | None) -> Request:
    """Return a request for the versions of a key that are older than `before`."""
    path = f"/v1/history/{quote(key, safe='')}"
    return plain_get(with_query(path, limit=limit, before=before))


def operation_request(op_id: str, *, settle: bool = False) -> Request:
    """Return a look-up; with `settle`, one that cancels an op_id that is not ordered."""
    path = f"/v1/operations/{quote(op_id, safe='')}"
    return Request(method="POST", path=path, body=b"") if settle else plain_get(path)


def ledger_request(start: int, limit: int) -> Request:
    """Return a request for a page of the ledger, beginning at `seq` start."""
    return plain_get(with_query("/v1/ledger", from_=start, limit=limit))


def watch_request(prefix: bytes, after: str) -> Request:
    """Return a request for the stream of changes after a position."""
    return Request(
        method="GET",
        path=with_query("/v1/watch", prefix=prefix),
        headers={"Accept": "text/event-stream", "Last-Event-ID": after},
    )


def poll_request(prefix: bytes, after: str | None, wait_s: float) -> Request:
    """Return a request for the next changes after a position; None: for the present position."""
    return plain_get(with_query("/v1/watch", prefix=prefix, after=after, poll=round(wait_s, 3)))


def grant_request(ttl_s: float, lease: str | None, op_id: str) -> Request:
    """Return a request to grant a lease."""
    body: dict[str, object] = {"ttl": ttl_s} if lease is None else {"ttl": ttl_s, "id": lease}
    return Request(
        method="POST",
        path="/v1/leases",
        headers=_idempotent(op_id, {"Content-Type": "application/json"}),
        body=_encode(body),
        mutation=True,
        op_id=op_id,
    )


def keep_alive_request(lease: str) -> Request:
    """Return a request to keep a lease alive. It changes no data, and may be repeated freely."""
    return Request(method="POST", path=f"{_lease_path(lease)}/keep-alive", body=b"")


def lease_request(lease: str, *, keys: bool) -> Request:
    """Return a request for the time that a lease lives."""
    return plain_get(with_query(_lease_path(lease), keys="true" if keys else None))


def leases_request(token: str | None) -> Request:
    """Return a request for a page of leases; `token` continues after the page before."""
    return plain_get(with_query("/v1/leases", limit=1000, continue_=token))


def revoke_request(lease: str, op_id: str) -> Request:
    """Return a request to end a lease."""
    return Request(
        method="DELETE",
        path=_lease_path(lease),
        headers=_idempotent(op_id),
        mutation=True,
        op_id=op_id,
    )


def _lease_path(lease: str) -> str:
    return f"/v1/leases/{quote(lease, safe='')}"


def backup_request(since: tuple[int, str] | None) -> Request:
    """GET a backup; `since`: revision and digest of the order, as an earlier one says them."""
    if since is None:
        return plain_get("/v1/backup")
    return plain_get(with_query("/v1/backup", since=since[0], digest=since[1]))


def plain_get(path: str) -> Request:
    """Return a GET of a path without headers or a body."""
    return Request(method="GET", path=path)


def transfer_request(to: str | None) -> Request:
    """Return a request to transfer the leadership; None: to the most advanced voter."""
    return _post("/v1/cluster/transfer", {} if to is None else {"to": to})


def add_member_request(member: str, raft_address: str, url: str, voter: bool) -> Request:
    """Return a request to add a member."""
    return _post(
        "/v1/cluster/members",
        {"id": member, "raft_address": raft_address, "url": url, "voter": voter},
    )


def promote_request(member: str) -> Request:
    """Return a request to make an observer a voter."""
    return _post(f"/v1/cluster/members/{quote(member, safe='')}/promote", {})


def amend_request() -> Request:
    """Return a request to make the answering node's retention settings those of all members."""
    return _post("/v1/cluster/limits", {})


def adopt_request(gives_up: int | None) -> Request:
    """Return a request to adopt the head of a restored store."""
    return _post("/v1/cluster/adopt", {} if gives_up is None else {"gives_up": gives_up})


def remove_member_request(member: str) -> Request:
    """Return a request to remove a member."""
    return Request(
        method="DELETE", path=f"/v1/cluster/members/{quote(member, safe='')}", mutation=True
    )


def access_switch_request(*, on: bool) -> Request:
    """Return a request to control access, or not."""
    return _post(f"/v1/access/{'enable' if on else 'disable'}", {})


def token_request(principal: str, roles: Sequence[str], ttl_s: float | None) -> Request:
    """Return a request to create a token."""
    form: dict[str, object] = {"principal": principal, "roles": list(roles)}
    return _post("/v1/access/tokens", form if ttl_s is None else form | {"ttl": ttl_s})


def role_request(role: results.AccessRole) -> Request:
    """Return a request to set a role."""
    rules = [
        {"prefix": to_json(rule.prefix), "read": rule.read, "write": rule.write}
        for rule in role.rules
    ]
    return Request(
        method="PUT",
        path=f"/v1/access/roles/{quote(role.name, safe='')}",
        headers={"Content-Type": "application/json"},
        body=_encode({"rules": rules, "admin": role.admin, "metrics": role.metrics}),
        mutation=True,
    )


def certificate_request(name: str, roles: Sequence[str]) -> Request:
    """Return a request to give roles to those whose certificate has a name."""
    return Request(
        method="PUT",
        path=f"/v1/access/certificates/{quote(name, safe='')}",
        headers={"Content-Type": "application/json"},
        body=_encode({"roles": list(roles)}),
        mutation=True,
    )


def access_removal_request(kind: str, name: str) -> Request:
    """Return a request to revoke a token, or to delete a role or the roles of a certificate."""
    path = f"/v1/access/{kind}/{quote(name, safe='')}"
    return Request(method="DELETE", path=path, mutation=True)


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
