"""GET /v1/kv?separator=…: keys right under a prefix, and the folders that the others are in."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv.model import Version
from node.api.listing import STEP_KEYS
from node.reads.separated import STEPS_MAX, Separator
from tests.unit.node.conftest import Api


def raw(form: Any) -> bytes:
    return form.encode() if isinstance(form, str) else base64.b64decode(form["base64"])


def naive(
    keys: Sequence[bytes], prefix: bytes, separator: bytes
) -> tuple[list[bytes], list[bytes]]:
    """The keys and the folders, told by looking at all keys."""
    shown, folders = [], []
    for key in sorted(k for k in keys if k.startswith(prefix)):
        before, found, _ = key[len(prefix) :].partition(separator)
        folder = prefix + before + found
        if not found:
            shown.append(key)
        elif folder not in folders:
            folders.append(folder)
    return shown, folders


async def put(api: Api, keys: Sequence[bytes], value: bytes = b"v") -> None:
    for first in range(0, len(keys), 100):
        writes = [
            {"put": {"base64": base64.b64encode(key).decode()}, "value": value.decode()}
            for key in keys[first : first + 100]
        ]
        done = await api.ask("POST", "/v1/txn", json={"writes": writes})
        assert done.status == 200, done.body


async def listed(
    api: Api, prefix: bytes, separator: bytes, more: str = ""
) -> tuple[list[bytes], list[bytes], list[Any]]:
    keys: list[bytes] = []
    folders: list[bytes] = []
    seen: list[Any] = []
    token = ""
    while True:
        query = f"prefix={quote(prefix)}&separator={quote(separator)}{more}"
        reply = await api.ask(
            "GET", f"/v1/kv?{query}" + (f"&continue={quote(token)}" if token else "")
        )
        assert reply.status == 200, reply.body
        page = reply.json()
        keys += [raw(item["key"]) for item in page["items"]]
        folders += [raw(form) for form in page["prefixes"]]
        seen.append(page)
        token = page.get("continue", "")
        if not token:
            assert len({page["revision"] for page in seen}) == 1
            return keys, folders, seen


ODD = [
    b"a", b"a/", b"a//", b"a/b", b"a/b/c", b"a0", b"/", b"//x", b"\x00/x", b"\xff", b"\xff/",
    b"\xff/\xff/y", b"\xff\xff/z", b"z\xfe/1", b"z\xfe/2", "ä/ö/ü".encode(), b"l" * 1023 + b"/",
]  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_odd_keys_are_folded_as_by_looking_at_all(api: Api, limit: int) -> None:
    await put(api, ODD)
    for prefix in (b"", b"a", b"a/", b"/", b"\xff", b"\xff/", b"z", b"none/"):
        for separator in (b"/", b"\xff", b"\x00", b"//", b"a"):
            keys, folders, seen = await listed(api, prefix, separator, f"&limit={limit}")
            assert (keys, folders) == naive(ODD, prefix, separator), (prefix, separator)
            assert all(len(page["items"]) + len(page["prefixes"]) <= limit for page in seen)


async def test_all_pages_show_one_revision_and_values_come_unless_left_out(api: Api) -> None:
    await put(api, [b"a/1", b"b", b"c/1", b"d"], b"old")
    first = (await api.ask("GET", "/v1/kv?separator=/&limit=2")).json()
    assert ([each["value"] for each in first["items"]], first["prefixes"]) == (["old"], ["a/"])
    await put(api, [b"b2", b"c2/1", b"d"], b"new")
    rest = (await api.ask("GET", f"/v1/kv?separator=/&continue={first['continue']}")).json()
    assert rest["revision"] == first["revision"]
    assert [(each["key"], each["value"]) for each in rest["items"]] == [("d", "old")]
    assert rest["prefixes"] == ["c/"]
    now = (await api.ask("GET", "/v1/kv?separator=/&keys_only=true")).json()
    assert [(each["key"], "value" in each) for each in now["items"]] == [
        ("b", False), ("b2", False), ("d", False),
    ]  # fmt: skip
    past = f"/v1/kv?separator=/&revision={first['revision']}"
    assert (await api.ask("GET", past)).json()["prefixes"] == ["a/", "c/"]
    empty = (await api.ask("GET", "/v1/kv?prefix=none/&separator=/")).json()
    assert (empty["items"], empty["prefixes"], "continue" in empty) == ([], [], False)


async def test_a_full_folder_costs_one_read_and_a_page_ends_after_many(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [b"full/%04d" % n for n in range(4 * STEP_KEYS)]
    await put(api, [*full, b"last"])
    reads = 0
    real = api.server.services.store.list

    async def counted(*args: Any, **more: Any) -> Any:
        nonlocal reads
        reads += 1
        return await real(*args, **more)

    monkeypatch.setattr(api.server.services.store, "list", counted)
    assert (await listed(api, b"", b"/"))[:2] == ([b"last"], [b"full/"])
    assert reads == 2
    monkeypatch.setattr("node.api.listing.STEP_KEYS", 1)
    flat = [b"k%04d" % n for n in range(STEPS_MAX + 5)]
    await put(api, flat)
    keys, folders, seen = await listed(api, b"", b"/", "&limit=1000")
    assert (keys, folders) == ([*flat, b"last"], [b"full/"])
    assert len(seen[0]["items"]) + 1 == STEPS_MAX


async def test_large_values_end_a_page_early(api: Api) -> None:
    for n in range(6):
        await put(api, [b"%d" % n, b"%d/x" % n], b"v" * 1_000_000)
    keys, folders, seen = await listed(api, b"", b"/")
    assert (keys, folders) == ([b"%d" % n for n in range(6)], [b"%d/" % n for n in range(6)])
    assert [len(page["items"]) for page in seen] == [3, 3, 0]


async def test_what_does_not_go_together_is_refused(api: Api) -> None:
    for more in ("sort=revision", "count_only=1", "start=a", "end=b", "max_mod_revision=3"):
        reply = await api.ask("GET", f"/v1/kv?separator=/&{more}")
        reply.problem(400, "conflicting_parameters")
    for wrong in ("", "x" * 65):
        (await api.ask("GET", f"/v1/kv?separator={wrong}")).problem(400, "bad_separator")
    await put(api, [b"a", b"b", b"c"])
    token = (await api.ask("GET", "/v1/kv?separator=/&limit=1")).json()["continue"]
    for other in ("", "&separator=:"):
        (await api.ask("GET", f"/v1/kv?limit=1&continue={token}{other}")).problem(400, "bad_token")


some = st.binary(min_size=1, max_size=6).map(lambda b: bytes(b"a/\xff\x00"[x % 4] for x in b))


@settings(deadline=None)
@given(st.sets(some, max_size=30), some | st.just(b""), some, st.integers(1, 4))
def test_skipping_finds_what_looking_at_all_finds(
    keys: set[bytes], prefix: bytes, separator: bytes, step: int
) -> None:
    at = Separator(prefix, separator)
    shown: list[Version | bytes] = []
    last, more, reads = b"", True, 0
    while more and (begins := at.go_on_after(last)) is not None:
        reads += 1
        first, end, after = begins
        left = sorted(k for k in keys if k >= first and k > after and (end == b"\0" or k < end))
        more = len(left) > step
        shown += at.fold([version(key) for key in left[:step]], last)
        if shown:
            now = shown[-1]
            last = now if isinstance(now, bytes) else now.key
    names = [each if isinstance(each, bytes) else each.key for each in shown]
    assert names == sorted(set(names))
    found = [each.key for each in shown if isinstance(each, Version)]
    folders = [each for each in shown if isinstance(each, bytes)]
    assert (found, folders) == naive(sorted(keys), prefix, separator)
    assert reads <= len(names) + 1


def version(key: bytes) -> Version:
    return Version(key=key, revision=1, value=b"")
