"""Make the requests of the corpus: odd bytes, limits, errors, forms of transactions, orders of
watches. What etcd answered to each is in `corpus.json`. It is a table, so it is long.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final, TypeAlias

from tests.peers.asking import Step

Cases: TypeAlias = dict[str, list[Step]]

ZERO: Final = b"\0"


def b64(data: bytes | str) -> str:
    """Return data as the gateway wants it."""
    raw = data.encode() if isinstance(data, str) else data
    return base64.b64encode(raw).decode()


def ask(path: str, save: dict[str, str] | None = None, **fields: Any) -> Step:
    """Return a request. Fields of bytes, also within lists and objects, are encoded."""
    step: Step = {"path": path, "body": json.dumps(_encoded(fields))}
    return step | ({"save": save} if save else {})


def raw(path: str, body: str, **more: Any) -> Step:
    """Return a request with that body."""
    return {"path": path, "body": body, **more}


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64(value)
    if isinstance(value, dict):
        return {name: _encoded(each) for name, each in value.items()}
    return [_encoded(each) for each in value] if isinstance(value, list) else value


def put(key: bytes, value: bytes = b"", **more: Any) -> Step:
    return ask("/v3/kv/put", key=key, value=value, **more)


def get(key: bytes, end: bytes | None = None, **more: Any) -> Step:
    if end is not None:
        more["range_end"] = end
    return ask("/v3/kv/range", key=key, **more)


def delete(key: bytes, end: bytes | None = None, **more: Any) -> Step:
    if end is not None:
        more["range_end"] = end
    return ask("/v3/kv/deleterange", key=key, **more)


def txn(compare: Any = (), success: Any = (), failure: Any = (), **more: Any) -> Step:
    return ask(
        "/v3/kv/txn", compare=list(compare), success=list(success), failure=list(failure), **more
    )


def cmp(key: bytes, target: str, operand: Any, result: str = "EQUAL", **more: Any) -> Any:
    name = {"CREATE": "create_revision", "MOD": "mod_revision"}.get(target, target.lower())
    return {"key": key, "target": target, "result": result, name: operand, **more}


def op_put(key: bytes, value: bytes = b"", **more: Any) -> Any:
    return {"request_put": {"key": key, "value": value, **more}}


def op_get(key: bytes, **more: Any) -> Any:
    return {"request_range": {"key": key, **more}}


def op_delete(key: bytes, **more: Any) -> Any:
    return {"request_delete_range": {"key": key, **more}}


def op_txn(compare: Any = (), success: Any = (), failure: Any = ()) -> Any:
    return {
        "request_txn": {
            "compare": list(compare),
            "success": list(success),
            "failure": list(failure),
        }
    }


ODD_KEYS: Final = (
    b"a", b"\0", b"\0\0", b"a\0", b"\xff", b"\xff\xff", b"/", b"//", b"..", b"%2F", b" ", b"\n",
    "é".encode(), "\U0001f511".encode(), b"\x80\xfe", b"a b", b"?x=1", b"#", b"k" * 512, b"key",
)  # fmt: skip
ODD_VALUES: Final = (
    b"", b"\0", b"\xff\xfe", b"\r\n", b"{}", b"null", b"0", b"v" * 4096, bytes(range(256)),
    "ü".encode(),
)  # fmt: skip
SEVEN: Final = [put(bytes([97 + n]), b"%d" % (9 - n)) for n in range(7)]
"""Puts of a … g with values that fall."""


def _keys() -> Cases:
    cases = {
        f"key {number}": [put(key, b"v"), get(key), get(key, keys_only=True), delete(key)]
        for number, key in enumerate(ODD_KEYS)
    }
    cases |= {
        f"value {number}": [put(b"v", value), get(b"v")] for number, value in enumerate(ODD_VALUES)
    }
    return cases


def _puts() -> Cases:
    return {
        "put anew and again": [put(b"k", b"1"), put(b"k", b"2"), get(b"k")],
        "put with prev_kv": [put(b"k", b"1", prev_kv=True), put(b"k", b"2", prev_kv=True)],
        "put after a delete": [put(b"k"), put(b"k"), delete(b"k"), put(b"k", b"x"), get(b"k")],
        "put that keeps its value": [put(b"k", b"1"), ask("/v3/kv/put", key=b"k", ignore_value=True), get(b"k")],
        "put that keeps the value of an absent key": [ask("/v3/kv/put", key=b"k", ignore_value=True)],
        "put that keeps its value and brings one": [put(b"k", b"1", ignore_value=True)],
        "put that keeps the lease of an absent key": [put(b"k", b"1", ignore_lease=True)],
        "put that keeps its lease and brings one": [put(b"k", b"1", ignore_lease=True, lease=7)],
        "put that keeps no lease": [put(b"k", b"1"), put(b"k", b"2", ignore_lease=True), get(b"k")],
        "put with an unknown lease": [put(b"k", b"1", lease=4711), get(b"k")],
        "put with an unknown lease as text": [put(b"k", b"1", lease="4711")],
        "put with a negative lease": [put(b"k", b"1", lease=-5)],
        "put without a key": [ask("/v3/kv/put", value=b"v"), ask("/v3/kv/put"), put(b"", b"v")],
        "put in camel case": [put(b"k", b"1"), put(b"k", b"2", prevKv=True)],
        "put with unknown members": [put(b"k", b"1", nope=1, other={"a": []})],
        "put with null": [raw("/v3/kv/put", '{"key":"aw==","value":null,"lease":null}'), get(b"k")],
        "a long key": [put(b"k" * 1500, b"v"), get(b"k" * 1500)],
        "a large value": [raw("/v3/kv/put", '{"key":"aw==","value":"<big>"}', fill={"big": 1_100_000})],
        "a larger request": [raw("/v3/kv/put", '{"key":"aw==","value":"<big>"}', fill={"big": 1_700_000})],
        "revisions of what was refused": [
            ask("/v3/kv/put", save={"r": "header.revision"}, key=b"a", value=b"1"),
            txn([cmp(b"a", "VERSION", 9)], [op_put(b"a")]), put(b"a", b"2"),
            raw("/v3/kv/range", '{"key":"YQ==","revision":"<r+1>"}'),
        ],
        "revisions of deletes of nothing": [
            ask("/v3/kv/put", save={"r": "header.revision"}, key=b"a", value=b"1"),
            delete(b"x"), put(b"a", b"2"), raw("/v3/kv/range", '{"key":"YQ==","revision":"<r+1>"}'),
        ],
        "put on the older path": [
            raw("/v3beta/kv/put", '{"key":"aw==","value":"MQ=="}'),
            raw("/v3beta/kv/range", '{"key":"aw=="}'),
            raw("/v3alpha/kv/range", '{"key":"aw=="}'),
        ],
    }  # fmt: skip


def _broken() -> Cases:
    bodies = (
        "nope", "[]", "", "{", '"text"', "1", "null", "true", '{"key":5}', '{"key":"!!"}',
        '{"key":"Zm9"}', '{"key":"a_-w"}', '{"key":"Zm9v","lease":"x"}', '{"key":"Zm9v","lease":1.5}',
        '{"key":"Zm9v","lease":true}', '{"key":"Zm9v","lease":"9223372036854775808"}',
        '{"key":"Zm9v","lease":99999999999999999999}', '{"key":"Zm9v","prev_kv":"true"}',
        '{"key":"Zm9v","prev_kv":1}', '{"key":["Zm9v"]}', '{"key":{"a":1}}', '{"key":"Zm9v"',
        '{"key":"Zm9v"}}', '{"key":"Zm9v"} {"key":"YQ=="}', '{"key":"Zm9v",}',
        '{"value":"Zm9v","value":"YQ=="}', '{"key":"Zm9v","lease":" 5"}', '{"key":"Zm9v","lease":""}',
        '{"key":"Zm 9v"}', '{"key":"Zm9v\\n"}',
    )  # fmt: skip
    cases = {f"body {n} of a put": [raw("/v3/kv/put", body)] for n, body in enumerate(bodies)}
    ranges = (
        '{"key":"YQ==","sort_order":"NOPE"}', '{"key":"YQ==","sort_order":7}',
        '{"key":"YQ==","sort_target":"VALUE"}', '{"key":"YQ==","sort_target":-1}',
        '{"key":"YQ==","sort_target":true}', '{"key":"YQ==","limit":"x"}', '{"key":"YQ==","limit":"2"}',
        '{"key":"YQ==","revision":"-3"}', '{"key":"YQ==","count_only":0}', '{"key":"YQ==","range_end":7}',
    )  # fmt: skip
    cases |= {f"body {n} of a range": [put(b"a"), raw("/v3/kv/range", body)] for n, body in enumerate(ranges)}  # fmt: skip
    txns = (
        '{"compare":7}', '{"compare":[7]}', '{"compare":[{}]}', '{"success":[{}]}',
        '{"success":[{"request_put":{}}]}', '{"success":[{"request_range":{}}]}',
        '{"success":[{"request_delete_range":{}}]}', '{"success":[{"nope":{}}]}',
        '{"compare":[{"key":"YQ==","target":"NOPE"}]}', '{"compare":[{"key":"YQ==","result":"NOPE"}]}',
        '{"compare":[{"key":"YQ==","target":9}]}', '{"compare":[{"key":"YQ==","result":9}]}',
        '{"compare":[{"key":"YQ==","target":"MOD","version":0}]}',
        '{"compare":[{"key":"YQ==","target":2,"result":0,"mod_revision":"0"}]}',
        '{"success":[null]}', '{"compare":[null]}', '{"success":{}}',
        '{"compare":[{"key":"YQ==","target":"VALUE"}]}', '{"compare":[{"key":"YQ=="}]}',
    )  # fmt: skip
    cases |= {f"body {n} of a txn": [raw("/v3/kv/txn", body)] for n, body in enumerate(txns)}
    cases["paths that are none"] = [raw(path, "{}") for path in ("/v3/nope", "/v3/kv", "/v3/kv/nope")]  # fmt: skip
    cases["other methods"] = [
        {"method": method, "path": "/v3/kv/range", "body": "{}"} for method in ("GET", "PUT", "DELETE")
    ]  # fmt: skip
    return cases


def _ranges() -> Cases:
    cases: Cases = {
        f"sorted {order} by {target}": [
            *SEVEN, put(b"c", b"55"), delete(b"b"), put(b"b", b"1"), put(b"c", b"5"),
            get(b"a", b"h", sort_order=order, sort_target=target),
            get(b"a", b"h", sort_order=order, sort_target=target, limit=3),
        ]
        for order in ("NONE", "ASCEND", "DESCEND")
        for target in ("KEY", "VERSION", "CREATE", "MOD", "VALUE")
    }  # fmt: skip
    bounds = (
        (b"a", b"d"), (b"b", b"b"), (b"d", b"a"), (b"a", ZERO), (b"d", ZERO), (ZERO, ZERO),
        (b"a", b"a\0"), (b"c", b"c\0"), (b"", b""), (b"", ZERO), (b"zz", ZERO), (b"a", b""), (b"a", b"\xff"),
    )  # fmt: skip
    cases |= {
        f"range {n}": [*SEVEN, get(begin, end), get(begin, end, count_only=True)]
        for n, (begin, end) in enumerate(bounds)
    }
    cases |= {
        f"limit {limit}": [*SEVEN, get(b"a", b"z", limit=limit), get(b"a", b"z", limit=limit, keys_only=True)]
        for limit in (-1, 0, 1, 6, 7, 8, 2**31)
    }  # fmt: skip
    saved = {"r": "header.revision"}
    cases |= {
        f"only {name} {offset}": [
            *SEVEN[:3], ask("/v3/kv/put", save=saved, key=b"d", value=b"x"), *SEVEN[4:], put(b"a", b"y"),
            raw("/v3/kv/range", f'{{"key":"YQ==","range_end":"eg==","{name}":"<r{offset}>"}}'),
            raw("/v3/kv/range", f'{{"key":"YQ==","range_end":"eg==","limit":2,"{name}":"<r{offset}>"}}'),
        ]
        for name in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")
        for offset in ("-1", "+0", "+1")
    }  # fmt: skip
    past = '{"key":"YQ==","range_end":"eg==","revision":"<r%s>"}'
    cases["ranges at past revisions"] = [
        put(b"a", b"1"), ask("/v3/kv/put", save=saved, key=b"b", value=b"1"), put(b"a", b"2"), delete(b"b"), put(b"c"),
        *(raw("/v3/kv/range", past % offset) for offset in ("-1", "", "+1", "+2", "+3")),
        raw("/v3/kv/range", '{"key":"YQ==","range_end":"eg==","revision":"<r>","limit":1,"sort_order":"DESCEND"}'),
        raw("/v3/kv/range", '{"key":"Yg==","revision":"<r>","keys_only":true}'),
    ]  # fmt: skip
    cases["a future revision"] = [put(b"a"), get(b"a", revision=2**40)]
    cases["serializable"] = [put(b"a", b"1"), get(b"a", serializable=True), get(b"b", serializable=True)]  # fmt: skip
    cases["count and keys only"] = [
        *SEVEN,
        get(b"a", b"z", count_only=True, keys_only=True, limit=2),
    ]
    cases["nothing there"] = [get(b"a"), get(b"a", b"z"), get(b"a", count_only=True)]
    return cases


def _deletes() -> Cases:
    bounds = ((b"a", b"d"), (b"d", b"a"), (b"a", ZERO), (ZERO, ZERO), (b"b", b"b"), (b"", b""), (b"x", b"z"))  # fmt: skip
    cases = {
        f"delete of range {n}": [*SEVEN, delete(begin, end), get(ZERO, ZERO, count_only=True)]
        for n, (begin, end) in enumerate(bounds)
    }
    cases |= {
        f"delete of range {n} with prev_kv": [*SEVEN, delete(begin, end, prev_kv=True)]
        for n, (begin, end) in enumerate(bounds)
    }
    return cases | {
        "delete of a key": [put(b"a", b"1"), delete(b"a"), delete(b"a"), get(b"a")],
        "delete with prev_kv": [put(b"a", b"1"), put(b"a", b"2"), delete(b"a", prev_kv=True), delete(b"a", prev_kv=True)],
        "delete without a key": [ask("/v3/kv/deleterange"), ask("/v3/kv/deleterange", range_end=b"a")],
    }  # fmt: skip


def _txns() -> Cases:
    yes, no = [op_put(b"yes", b"1")], [op_put(b"no", b"1")]
    cases: Cases = {}
    for target, operands in (
        ("VERSION", (0, 1, 2, 3)), ("CREATE", (0, 1, 2**40)), ("MOD", (0, 1, 2**40)), ("LEASE", (0, 1)),
        ("VALUE", (b"", b"a", b"b", b"bb")),
    ):  # fmt: skip
        for result in ("EQUAL", "NOT_EQUAL", "GREATER", "LESS"):
            absent = [txn([cmp(b"k", target, each, result)], yes, no) for each in operands]
            cases[f"{target} {result} of an absent and a present key"] = [
                *absent, put(b"k", b"a"), put(b"k", b"b"), *absent, get(b"no"), get(b"yes"),
            ]  # fmt: skip
    for result in ("EQUAL", "NOT_EQUAL", "GREATER", "LESS"):
        cases[f"VERSION and VALUE {result} over a range"] = [
            txn([cmp(b"a", "VERSION", 1, result, range_end=b"z")], yes, no),
            txn([cmp(b"a", "VALUE", b"5", result, range_end=b"z")], yes, no),
            txn([cmp(b"a", "VERSION", 0, result, range_end=b"z")], yes, no),
            delete(ZERO, ZERO), *SEVEN[:4],
            txn([cmp(b"a", "VERSION", 1, result, range_end=b"e")], yes, no),
            txn([cmp(b"a", "VALUE", b"8", result, range_end=b"e")], yes, no),
            txn([cmp(b"a", "VALUE", b"7", result, range_end=ZERO)], yes, no),
        ]  # fmt: skip
    saved = {"r": "header.revision"}
    at = '{"compare":[{"key":"YQ==","target":"%s","result":"%s","%s":"<r%s>"}],"success":[{"request_range":{"key":"YQ=="}}],"failure":[]}'
    for target, name in (("MOD", "mod_revision"), ("CREATE", "create_revision")):
        cases[f"{target} of a revision"] = [
            ask("/v3/kv/put", save=saved, key=b"a", value=b"1"), put(b"b"),
            *(raw("/v3/kv/txn", at % (target, result, name, offset))
              for result in ("EQUAL", "NOT_EQUAL", "GREATER", "LESS") for offset in ("-1", "", "+1")),
        ]  # fmt: skip
    forms: dict[str, list[Step]] = {
        "empty": [txn(), ask("/v3/kv/txn")],
        "reads alone": [*SEVEN, txn([], [op_get(b"a"), op_get(b"a", range_end=b"d"), op_get(b"q")])],
        "reads of a branch": [put(b"a", b"1"), txn([cmp(b"a", "VALUE", b"2")], [op_get(b"a")], [op_get(b"a", keys_only=True), op_get(b"b")])],
        "reads with options": [*SEVEN, txn([], [op_get(b"a", range_end=b"z", limit=2, sort_order="DESCEND"), op_get(b"a", range_end=b"z", count_only=True)])],
        "reads see writes before them": [put(b"a", b"1"), txn([], [op_get(b"a"), op_put(b"a", b"2"), op_get(b"a"), op_get(b"a", range_end=b"z")])],
        "reads see deletes before them": [put(b"a", b"1"), put(b"b", b"1"), txn([], [op_delete(b"a"), op_get(b"a", range_end=b"z"), op_put(b"c", b"3"), op_get(b"a", range_end=b"z", count_only=True)])],
        "puts with prev_kv": [put(b"a", b"1"), txn([], [op_put(b"a", b"2", prev_kv=True), op_put(b"b", b"2", prev_kv=True)]), get(b"a", b"c")],
        "delete and count": [*SEVEN, txn([], [op_delete(b"a", range_end=b"d", prev_kv=True), op_delete(b"e"), op_delete(b"x")])],
        "a key twice": [txn([], [op_put(b"a", b"1"), op_put(b"a", b"2")])],
        "a key twice in the failure": [txn([], yes, [op_put(b"a"), op_put(b"a")])],
        "a key in both branches": [txn([], [op_put(b"a", b"1")], [op_put(b"a", b"2")])],
        "a put within a deleted range": [put(b"b"), txn([], [op_delete(b"a", range_end=b"c"), op_put(b"b", b"2")])],
        "a put and its delete": [txn([], [op_put(b"b", b"2"), op_delete(b"b")])],
        "deletes twice": [put(b"b"), txn([], [op_delete(b"b"), op_delete(b"b"), op_delete(b"a", range_end=b"z")])],
        "two compares": [put(b"a", b"1"), put(b"b", b"2"), *(txn([cmp(b"a", "VALUE", x), cmp(b"b", "VALUE", y)], yes, no) for x in (b"1", b"2") for y in (b"1", b"2"))],
        "put with ignore_value": [put(b"a", b"1"), txn([], [{"request_put": {"key": b"a", "ignore_value": True}}, op_get(b"a")])],
        "put with ignore_value of an absent key": [txn([], [op_put(b"b", b"1"), {"request_put": {"key": b"a", "ignore_value": True}}]), get(b"b")],
        "put with an unknown lease": [txn([], [op_put(b"a", b"1", lease=99)]), txn([cmp(b"a", "VERSION", 5)], [op_put(b"a", b"1", lease=99)], yes), get(b"a")],
        "range at a past revision": [ask("/v3/kv/put", save=saved, key=b"a", value=b"1"), put(b"a", b"2"), raw("/v3/kv/txn", '{"success":[{"request_range":{"key":"YQ==","revision":"<r>"}}]}')],
        "range at a future revision": [put(b"a"), txn([], [op_get(b"a", revision=2**40)])],
        "nested": [txn([], [op_put(b"a", b"1"), op_txn([cmp(b"a", "VERSION", 0)], [op_put(b"b", b"then")], [op_put(b"b", b"else")]), op_get(b"b")])],
        "nested, the other branch": [put(b"a"), txn([], [op_txn([cmp(b"a", "VERSION", 0)], [op_put(b"b", b"then")], [op_put(b"b", b"else"), op_get(b"a")])])],
        "nested deep": [txn([], [op_txn([], [op_txn([], [op_txn([cmp(b"q", "VERSION", 0)], [op_put(b"z", b"4")])])])]), get(b"z")],
        "nested in both": [txn([cmp(b"a", "VERSION", 9)], [op_txn([], yes)], [op_txn([], no, yes)])],
        "nested with a key twice": [txn([], [op_put(b"a", b"1"), op_txn([], [op_put(b"a", b"2")])])],
        "nested with a key in both branches": [txn([], [op_txn([cmp(b"q", "VERSION", 0)], [op_put(b"a", b"1")], [op_put(b"a", b"2")])])],
        "two nested with the same key": [txn([], [op_txn([], [op_put(b"a", b"1")]), op_txn([], [op_put(b"a", b"2")])])],
        "128 operations": [txn([], [op_put(b"k%03d" % n, b"v") for n in range(128)]), get(b"k", b"l", count_only=True)],
        "129 operations": [txn([], [op_put(b"k%03d" % n, b"v") for n in range(129)])],
        "100 compares and 100 puts": [txn([cmp(b"q", "VERSION", 0)] * 100, [op_put(b"k%03d" % n) for n in range(100)])],
        "nested six deep": [txn([], [op_txn([], [op_txn([], [op_txn([], [op_txn([], [op_txn([], [op_put(b"z", b"6")])])])])])]), get(b"z")],
        "129 compares": [txn([cmp(b"k", "VERSION", 0)] * 129, yes)],
        "refused and nothing else": [txn([cmp(b"a", "VERSION", 1)], yes), txn([cmp(b"a", "VERSION", 1)])],
        "a lock": [
            txn([cmp(b"lock", "CREATE", 0)], [op_put(b"lock", b"me")], [op_get(b"lock")]),
            txn([cmp(b"lock", "CREATE", 0)], [op_put(b"lock", b"you")], [op_get(b"lock")]),
            txn([cmp(b"lock", "VALUE", b"you")], [op_delete(b"lock")]),
            txn([cmp(b"lock", "VALUE", b"me")], [op_delete(b"lock")]),
            get(b"lock"),
        ],
    }  # fmt: skip
    return cases | {f"txn: {name}": steps for name, steps in forms.items()}


def _leases() -> Cases:
    saved = {"lease": "ID"}
    grant = ask("/v3/lease/grant", save=saved, TTL=60)
    own = raw("/v3/kv/put", '{"key":"YQ==","value":"MQ==","lease":"<lease>"}')
    live = raw("/v3/lease/timetolive", '{"ID":"<lease>","keys":true}')
    revoke = raw("/v3/lease/revoke", '{"ID":"<lease>"}')
    other = raw("/v3/kv/put", '{"key":"Yg==","value":"MQ==","lease":"<lease>"}')
    return {
        "lease: its life": [grant, own, live, get(b"a"), revoke, get(b"a"), live, revoke],
        "lease: two keys": [grant, own, other, live, delete(b"a"), live, revoke, get(b"a", b"z")],
        "lease: a key that leaves it": [grant, own, put(b"a", b"2"), live, revoke, get(b"a")],
        "lease: a key that keeps it": [grant, own, put(b"a", b"2", ignore_lease=True), live, revoke, get(b"a")],
        "lease: compared": [
            grant, own,
            raw("/v3/kv/txn", '{"compare":[{"key":"YQ==","target":"LEASE","lease":"<lease>"}],"success":[{"request_delete_range":{"key":"YQ==","prev_kv":true}}]}'),
            revoke,
        ],
        "lease: kept alive": [grant, raw("/v3/lease/keepalive", '{"ID":"<lease>"}'), revoke, raw("/v3/lease/keepalive", '{"ID":"<lease>"}')],
        "lease: ids": [
            ask("/v3/lease/grant", TTL=60, ID=4711), ask("/v3/lease/grant", TTL=60, ID=4711),
            ask("/v3/lease/revoke", ID=4711), ask("/v3/lease/revoke", ID=4711),
            ask("/v3/lease/grant", TTL=60, ID="4712"), ask("/v3/lease/revoke", ID="4712"),
            ask("/v3/lease/grant", TTL="60", ID=2**62), ask("/v3/lease/timetolive", ID=2**62), ask("/v3/lease/revoke", ID=2**62),
        ],
        "lease: odd ids": [ask("/v3/lease/grant", TTL=60, ID=-1), ask("/v3/lease/revoke", ID=-1), ask("/v3/lease/revoke"), ask("/v3/lease/revoke", ID=0)],
        "lease: odd ttls": [ask("/v3/lease/grant", TTL=9_000_000_001), ask("/v3/lease/grant", TTL="x"), ask("/v3/lease/grant", TTL=1.5)],
        "lease: too short": [ask("/v3/lease/grant", ID=31, TTL=0), ask("/v3/lease/revoke", ID=31), ask("/v3/lease/grant", ID=32, TTL=-3), ask("/v3/lease/revoke", ID=32), ask("/v3/lease/grant", ID=33), ask("/v3/lease/revoke", ID=33)],
        "lease: unknown": [ask("/v3/lease/timetolive", ID=99), ask("/v3/lease/keepalive", ID=99), ask("/v3/lease/timetolive"), ask("/v3/lease/keepalive")],
        "lease: older paths": [grant, raw("/v3/kv/lease/timetolive", '{"ID":"<lease>"}'), raw("/v3beta/lease/keepalive", '{"ID":"<lease>"}'), raw("/v3/kv/lease/revoke", '{"ID":"<lease>"}'), ask("/v3/kv/lease/revoke", ID=98)],
        "lease: listed": [ask("/v3/lease/grant", TTL=60, ID=41), ask("/v3/lease/leases"), ask("/v3/kv/lease/leases"), ask("/v3/lease/revoke", ID=41), ask("/v3/lease/leases")],
        "lease: outlives a delete of everything": [ask("/v3/lease/grant", ID=51, TTL=60), delete(ZERO, ZERO), get(ZERO, ZERO), ask("/v3/lease/timetolive", ID=51), ask("/v3/lease/revoke", ID=51)],
        "lease: seen by no comparison": [
            ask("/v3/lease/grant", ID=52, TTL=60),
            txn([cmp(b"a", "VERSION", 0, range_end=b"z")], [op_get(b"a", range_end=b"z")]),
            txn([cmp(b"a", "VERSION", 1, range_end=ZERO)], [op_get(b"a", range_end=ZERO)]),
            ask("/v3/lease/revoke", ID=52),
        ],
        "lease: without a ttl": [ask("/v3/lease/grant", ID=34), ask("/v3/lease/timetolive", ID=34), ask("/v3/lease/revoke", ID=34)],
    }  # fmt: skip


def watch(name: str, *creates: dict[str, Any], extra: str = "") -> Step:
    body = "".join(json.dumps({"create_request": _encoded(create)}) for create in creates)
    return {"open": name, "path": "/v3/watch", "body": body + extra}


def told(name: str, count: int) -> Step:
    return {"read": name, "count": count}


def _watches() -> Cases:
    saved = {"r": "header.revision"}
    first = ask("/v3/kv/put", save=saved, key=b"a", value=b"1")

    def since(offset: str, **more: Any) -> Step:
        fields = {"key": b64(b"a"), "range_end": b64(b"z"), "start_revision": f"<r{offset}>"} | more
        return raw("/v3/watch", json.dumps({"create_request": fields}), open="w")

    return {
        "watch: a key": [watch("w", {"key": b"a"}), told("w", 1), put(b"a", b"1"), put(b"b"), put(b"a", b"2"), delete(b"a"), told("w", 3)],
        "watch: a range": [watch("w", {"key": b"a", "range_end": b"c"}), told("w", 1), put(b"a"), put(b"b"), put(b"c"), delete(b"a", b"d"), told("w", 4)],
        "watch: all": [watch("w", {"key": ZERO, "range_end": ZERO}), told("w", 1), put(b"\xff"), put(b"0"), told("w", 2)],
        "watch: from a key on": [watch("w", {"key": b"b", "range_end": ZERO}), told("w", 1), put(b"a"), put(b"b"), put(b"z"), told("w", 2)],
        "watch: prev_kv": [put(b"a", b"0"), watch("w", {"key": b"a", "prev_kv": True}), told("w", 1), put(b"a", b"1"), delete(b"a"), put(b"a", b"2"), told("w", 3)],
        "watch: no puts": [watch("w", {"key": b"a", "filters": ["NOPUT"]}), told("w", 1), put(b"a"), delete(b"a"), told("w", 1)],
        "watch: no deletes": [watch("w", {"key": b"a", "filters": ["NODELETE"]}), told("w", 1), put(b"a"), delete(b"a"), put(b"a", b"2"), told("w", 2)],
        "watch: filters as numbers": [watch("w", {"key": b"a", "filters": [1]}), told("w", 1), put(b"a"), delete(b"a"), put(b"a", b"2"), told("w", 2)],
        "watch: from the past": [first, put(b"b"), delete(b"a"), since(""), told("w", 4), put(b"c"), told("w", 1)],
        "watch: from the past with prev_kv": [first, put(b"a", b"2"), delete(b"a"), since("+1", prev_kv=True), told("w", 3)],
        "watch: from the past, filtered": [first, put(b"a", b"2"), delete(b"a"), since("", filters=["NOPUT"]), told("w", 2)],
        "watch: from the next revision": [first, since("+1"), told("w", 1), put(b"a", b"2"), told("w", 1)],
        "watch: from the future": [first, since("+1000"), told("w", 1), told("w", 0)],
        "watch: two on a stream": [watch("w", {"key": b"a"}, {"key": b"b"}), told("w", 2), put(b"b"), put(b"a"), told("w", 2)],
        "watch: two of the same key": [watch("w", {"key": b"a"}, {"key": b"a"}), told("w", 2), put(b"a"), told("w", 2)],
        "watch: own ids": [watch("w", {"key": b"a", "watch_id": 7}, {"key": b"a", "watch_id": "9"}), told("w", 2), put(b"a"), told("w", 2)],
        "watch: an id twice": [watch("w", {"key": b"a", "watch_id": 7}, {"key": b"b", "watch_id": 7}), told("w", 2)],
        "watch: cancelled": [watch("w", {"key": b"a", "watch_id": 3}, extra='{"cancel_request":{"watch_id":3}}'), told("w", 2), put(b"a"), told("w", 0)],
        "watch: cancel of an unknown one": [watch("w", {"key": b"a"}, extra='{"cancel_request":{"watch_id":33}}'), told("w", 1), put(b"a"), told("w", 1)],
        "watch: progress": [watch("w", {"key": b"a"}, extra='{"progress_request":{}}'), told("w", 1)],
        "watch: a transaction": [watch("w", {"key": b"a", "range_end": b"z"}), told("w", 1), txn([], [op_put(b"c", b"1"), op_put(b"a", b"1"), op_delete(b"x")]), told("w", 2)],
        "watch: an empty key": [watch("w", {"key": b""}), told("w", 1)],
        "watch: an empty range": [watch("w", {"key": b"b", "range_end": b"a"}), told("w", 1)],
        "watch: an empty range that begins and ends at a key": [watch("w", {"key": b"b", "range_end": b"b"}), told("w", 1)],
        "watch: a lease that ends": [
            ask("/v3/lease/grant", save={"lease": "ID"}, TTL=60),
            raw("/v3/kv/put", '{"key":"YQ==","value":"MQ==","lease":"<lease>"}'),
            raw("/v3/kv/put", '{"key":"Yg==","value":"MQ==","lease":"<lease>"}'),
            watch("w", {"key": b"a", "range_end": b"z"}), told("w", 1),
            raw("/v3/lease/revoke", '{"ID":"<lease>"}'), told("w", 2),
        ],
        "watch: an unknown request": [raw("/v3/watch", "{}", open="w"), told("w", 0)],
        "watch: a broken request": [raw("/v3/watch", "nope", open="w"), told("w", 1)],
        "watch: negative start": [watch("w", {"key": b"a", "start_revision": -1}), told("w", 1), put(b"a"), told("w", 1)],
        "watch: fragments": [watch("w", {"key": b"a", "fragment": True}), told("w", 1), put(b"a"), told("w", 1)],
        "watch: older path": [{**watch("w", {"key": b"a"}), "path": "/v3beta/watch"}, told("w", 1), put(b"a"), told("w", 1)],
        "watch: same values": [watch("w", {"key": b"a"}), told("w", 1), put(b"a", b"1"), put(b"a", b"1"), told("w", 2)],
    }  # fmt: skip


def _locks() -> Cases:
    lease = ask("/v3/lease/grant", save={"lease": "ID"}, TTL=60)
    revoke = raw("/v3/lease/revoke", '{"ID":"<lease>"}')
    lock = raw("/v3/lock/lock", '{"name":"bA==","lease":"<lease>"}', save={"mine": "key"})
    campaign = raw(
        "/v3/election/campaign",
        '{"name":"ZQ==","lease":"<lease>","value":"MQ=="}',
        save={"key": "leader.key", "rev": "leader.rev"},
    )
    leader = '{"leader":{"name":"ZQ==","key":"<key>","rev":"<rev>","lease":"<lease>"}%s}'
    return {
        "lock and unlock": [lease, lock, get(b"l/", b"l0", count_only=True), raw("/v3/lock/unlock", '{"key":"<mine>"}'), get(b"l/", b"l0"), revoke],
        "lock twice with one lease": [lease, lock, lock, revoke],
        "unlock of nothing": [ask("/v3/lock/unlock", key=b"nothing"), ask("/v3/lock/unlock")],
        "lock with an unknown lease": [ask("/v3/lock/lock", name=b"l", lease=99)],
        "election": [
            lease, ask("/v3/election/leader", name=b"e"), campaign, ask("/v3/election/leader", name=b"e"),
            raw("/v3/election/proclaim", leader % ',"value":"Mg=="'), ask("/v3/election/leader", name=b"e"),
            {"open": "o", "path": "/v3/election/observe", "body": '{"name":"ZQ=="}'}, told("o", 1),
            raw("/v3/election/resign", leader % ""), ask("/v3/election/leader", name=b"e"),
            raw("/v3/election/proclaim", leader % ',"value":"Mw=="'), revoke,
        ],
        "election without a leader": [ask("/v3/election/leader", name=b"none"), ask("/v3/election/proclaim"), ask("/v3/election/resign")],
        "campaign with an unknown lease": [ask("/v3/election/campaign", name=b"e", lease=99, value=b"1")],
    }  # fmt: skip


def _others() -> Cases:
    return {
        "compaction": [
            ask("/v3/kv/put", save={"r": "header.revision"}, key=b"a", value=b"1"), put(b"a", b"2"),
            raw("/v3/kv/compaction", '{"revision":"<r+1>"}'), get(b"a"),
            raw("/v3/kv/range", '{"key":"YQ==","revision":"<r>"}'),
            raw("/v3/kv/compaction", '{"revision":"<r>"}'),
            raw("/v3/watch", '{"create_request":{"key":"YQ==","start_revision":"<r>"}}', open="w"), told("w", 2),
        ],
        "compaction of the future": [ask("/v3/kv/compaction", revision=2**40)],
        "alarms": [ask("/v3/maintenance/alarm")],
        "authentication": [ask("/v3/auth/authenticate", name="a", password="b"), ask("/v3/auth/enable")],
    }  # fmt: skip


def corpus() -> Cases:
    """Return all cases by name."""
    cases: Cases = {}
    for part in (_keys, _puts, _broken, _ranges, _deletes, _txns, _leases, _watches, _locks, _others):  # fmt: skip
        cases |= part()
    return cases
