"""The page signs in with a token and keeps a cookie, which counts for the node's own page alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from typing import Any

import pytest

from kv.access import ACCESS_PREFIX
from kv.sessions import LIVES_MS
from node.exchange.exchange import Exchange
from node.http import cookies
from tests.unit.node.conftest import Reply, opened
from tests.unit.node.test_access import Door, controlled

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with opened(kind="replicated") as api:
        yield await controlled(api)


async def sign_in(door: Door, who: str, **headers: str) -> Reply:
    made = await door.ask(who, "POST", "/v1/session", headers=OWN | headers)
    assert made.status == 201, made.body
    return made


async def cookie_of(door: Door, who: str) -> str:
    return str((await sign_in(door, who)).headers["Set-Cookie"]).partition(";")[0]


async def by(door: Door, cookie: str, method: str, path: str, **more: Any) -> Reply:
    headers = {"Cookie": cookie, **more.pop("headers", OWN)}
    return await door.api.ask(method, path, headers=headers, **more)


async def test_a_session_does_what_its_token_may_and_holds_nothing_of_it(door: Door) -> None:
    made = await sign_in(door, "owner")
    assert made.json()["principal"] == "owner" and not made.json()["admin"]
    _, id, secret = door.tokens["owner"].split("_", 2)
    assert secret not in made.headers["Set-Cookie"] and id not in made.headers["Set-Cookie"]
    ((name, kept),) = SimpleCookie(made.headers["Set-Cookie"]).items()
    assert (name, kept["path"], kept["samesite"]) == ("acordo_session", "/", "Strict")
    assert kept["httponly"] and not kept["secure"] and not kept["domain"]
    assert 0 < int(kept["max-age"]) <= LIVES_MS // 1000
    cookie = f"{name}={kept.value}"
    assert (await by(door, cookie, "PUT", "/v1/kv/a/1", data=b"by page")).status == 200
    assert (await by(door, cookie, "GET", "/v1/kv/a/1")).body == b"by page"
    (await by(door, cookie, "GET", "/v1/kv/b/1")).problem(403, "not_allowed")
    assert (await by(door, cookie, "GET", "/v1/access")).json()["principal"] == "owner"
    bearer = {"Authorization": f"Bearer {kept.value}"}
    (await door.api.ask("GET", "/v1/access", headers=bearer)).problem(401, "not_signed_in")


async def test_behind_https_the_cookie_is_for_https_alone(door: Door) -> None:
    made = await sign_in(door, "owner", **{"X-Forwarded-Proto": "https"})
    text = made.headers["Set-Cookie"]
    assert text.startswith("__Host-acordo_session=") and text.endswith("; Secure")
    assert (await by(door, text.partition(";")[0], "GET", "/v1/kv/a/1")).status == 200


@pytest.mark.parametrize(
    ("said", "secure"),
    [({}, True), ({"X-Forwarded-Proto": "http"}, False),
     ({"X-Forwarded-Proto": "https, http"}, True)],
)  # fmt: skip
async def test_a_proxy_that_asks_by_https_says_what_the_browser_speaks(
    door: Door, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], secure: bool
) -> None:
    """By HTTP a browser keeps no cookie that is for HTTPS alone: nobody could sign in."""
    monkeypatch.setattr(Exchange, "encrypted", True)
    made = await sign_in(door, "owner", **said)
    assert made.headers["Set-Cookie"].endswith("; Secure") is secure


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
     {"Sec-Fetch-Site": "none"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
     {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1"}],
)  # fmt: skip
async def test_another_page_changes_nothing_with_the_cookie(
    door: Door, headers: dict[str, str]
) -> None:
    cookie = await cookie_of(door, "owner")
    for method, path in (("PUT", "/v1/kv/a/1"), ("POST", "/v1/txn"), ("DELETE", "/v1/session")):
        sent = await by(door, cookie, method, path, headers=headers)
        sent.problem(403, "cross_site")
    assert (await by(door, cookie, "GET", "/v1/kv/a/1")).body == b"a/1"


async def test_another_page_reads_nothing_with_the_cookie(door: Door) -> None:
    cookie = await cookie_of(door, "owner")
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
                    {"Origin": "http://evil.example"}):  # fmt: skip
        for path in ("/v1/kv/a/1", "/v1/cluster", "/v1/watch?prefix=a/"):
            reply = await by(door, cookie, "GET", path, headers=headers)
            reply.problem(401, "not_signed_in")


async def test_the_page_of_a_member_reads_what_members_share_and_nothing_else(door: Door) -> None:
    cookie = await cookie_of(door, "owner")
    (member,) = door.api.consensus.status().members
    headers = {"Sec-Fetch-Site": "same-site", "Origin": member.url}
    assert (await by(door, cookie, "GET", "/v1/cluster", headers=headers)).status == 200
    (await by(door, cookie, "GET", "/v1/kv/a/1", headers=headers)).problem(401, "not_signed_in")
    (await by(door, cookie, "PUT", "/v1/kv/a/1", headers=headers)).problem(403, "cross_site")


async def test_its_own_origin_is_word_enough(door: Door) -> None:
    cookie = await cookie_of(door, "owner")
    own = {"Origin": door.api.url}
    assert (await by(door, cookie, "PUT", "/v1/kv/a/1", data=b"", headers=own)).status == 200


async def test_who_signed_out_is_out(door: Door) -> None:
    cookie, other = await cookie_of(door, "owner"), await cookie_of(door, "owner")
    ended = await by(door, cookie, "DELETE", "/v1/session")
    assert "Max-Age=0" in ended.headers["Set-Cookie"]
    (await by(door, cookie, "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")
    assert (await by(door, other, "GET", "/v1/kv/a/1")).status == 200


async def test_a_session_ends_with_its_token_and_by_itself(door: Door) -> None:
    await door.token("short", "own", ttl=60)
    cookie, short = await cookie_of(door, "owner"), await cookie_of(door, "short")
    await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['owner']}")
    (await by(door, cookie, "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")
    admin = await cookie_of(door, "admin")
    access = door.api.server.services.access
    now_ms = access.now_ms()
    access.now_ms = lambda: now_ms + 61_000  # type: ignore[method-assign]
    (await by(door, short, "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")
    assert (await by(door, admin, "GET", "/v1/kv/a/1")).status == 200
    access.now_ms = lambda: now_ms + LIVES_MS + 1000  # type: ignore[method-assign]
    (await by(door, admin, "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")


async def test_a_stream_ends_with_its_session(door: Door) -> None:
    cookie = await cookie_of(door, "owner")
    head = {"Cookie": cookie, **OWN}
    async with door.api.session.get(f"{door.api.url}/v1/watch?prefix=a/", headers=head) as stream:
        assert stream.status == 200
        await by(door, cookie, "DELETE", "/v1/session")
        await door.ask("admin", "PUT", "/v1/kv/a/1", data=b"unseen")
        seen = await stream.content.read()
    assert b"not_signed_in" in seen and b"unseen" not in seen


@pytest.mark.parametrize(
    "cookie",
    ["", "x", "acordo_session=", "acordo_session=000000000000." + "A" * 43, "acordo_session=\xfc",
     "acordo_session=" + "x" * 9000, "other=1; acordo_session", ";;=;="],
)  # fmt: skip
async def test_what_is_no_session_lets_nobody_in(door: Door, cookie: str) -> None:
    (await by(door, cookie, "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")


async def test_a_session_of_the_right_id_with_another_secret_lets_nobody_in(door: Door) -> None:
    cookie = await cookie_of(door, "owner")
    wrong = cookie[:-43] + "A" * 43
    (await by(door, wrong, "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")


async def test_sessions_are_begun_with_tokens_alone_and_are_so_many(door: Door) -> None:
    (await door.ask(None, "POST", "/v1/session")).problem(401, "not_signed_in")
    first = await cookie_of(door, "owner")
    (await by(door, first, "POST", "/v1/session")).problem(400, "no_token")
    for _ in range(16):
        last = await cookie_of(door, "owner")
    (await by(door, first, "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")
    assert (await by(door, last, "GET", "/v1/kv/a/1")).status == 200
    assert len(door.api.server.services.access.sessions) == 16


async def test_a_token_in_a_header_counts_before_the_cookie(door: Door) -> None:
    cookie = await cookie_of(door, "reader")
    headers = {"Cookie": cookie, "Authorization": f"Bearer {door.tokens['owner']}"}
    put = await door.api.ask("PUT", "/v1/kv/a/1", data=b"", headers=headers)
    assert put.status == 200


async def test_what_is_kept_of_a_session_is_not_what_the_browser_sends(door: Door) -> None:
    cookie = await cookie_of(door, "owner")
    kept = [raw for key, raw in door.api.server.services.access.records().items()
            if key.startswith(ACCESS_PREFIX + b"sessions/")]  # fmt: skip
    assert len(kept) == 1 and cookie.partition(".")[2].encode() not in kept[0]


def test_a_cookie_is_found_among_others() -> None:
    assert cookies.sent("a=1; acordo_session=x.y;b=2") == "x.y"
    assert cookies.sent("acordo_session=x; __Host-acordo_session=z") == "z"
    assert cookies.sent(None) is cookies.sent("a=1") is None
