"""No page of another origin writes, no foreign name leads to a node; clients that are no browsers
notice nothing.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.ports import Member
from node.api.routes import BEGUN, WHOLE
from node.http.origin import foreign, leads_here, member_origins, names_of
from tests.unit.node.conftest import Api, Open

NAMES = names_of("http://n1.example:8001", ("Kv.Example.org.",))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8001",
        "127.0.0.1:8001",
        "[::1]:8001",
        "[::1]",
        "10.1.2.3",
        "node1:8000",
        "n1.example",
        "N1.Example:80",
        "kv.example.org",
        "kv.example.org.:8080",
        "a.localhost:8001",
        "",
    ],
)
def test_names_that_lead_here(host: str) -> None:
    assert leads_here(host, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8001",
        "n1.example.evil.com",
        "127.0.0.1.evil.com",
        "localhost.evil.com",
        "[::1].evil",
        "n1.example@evil.com",
        "evil.com.",
        "[zz]",
        "1.2.3",
        "n1.example:x",
        "évil.com",
        "[::1",
    ],
)
def test_names_that_do_not(host: str) -> None:
    assert not leads_here(host, NAMES)
    assert (
        host.startswith("[")
        or not host.isascii()
        or ":x" in host
        or "@" in host
        or leads_here(host, frozenset("*"))
    )


def test_where_a_request_comes_from() -> None:
    assert foreign("h:1", None, None) is None
    assert foreign("h:1", None, "http://h:1") is None
    assert foreign("H:1", None, "http://h:1") is None
    assert foreign("h", None, "https://h") is None
    assert foreign("h:1", "same-origin", None) is None
    assert foreign("h:1", "none", None) is None
    for origin in (
        "http://evil:1",
        "http://h:2",
        "null",
        "",
        "http://h:1.evil",
        "h:1",
        "http://evil/h:1",
    ):
        assert foreign("h:1", None, origin) is not None
    for site in ("cross-site", "same-site", "", "anything"):
        assert foreign("h:1", site, "http://h:1") is not None
    assert foreign("", None, "null") is not None


@given(st.text(max_size=30), st.text(max_size=30) | st.none(), st.text(max_size=30) | st.none())
def test_any_text_is_judged(host: str, site: str | None, origin: str | None) -> None:
    leads_here(host, NAMES)
    foreign(host, site, origin)


WRITING = [
    (method, route.template.replace("{key}", "a").replace("{id}", "n2").replace("{op_id}", "o1"))
    for route in (*WHOLE, *(each for *_, each in BEGUN))
    for method in route.handlers
    if method not in ("GET", "HEAD")
]


@pytest.mark.parametrize(("method", "path"), WRITING)
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
     {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}],
)  # fmt: skip
async def test_no_page_of_another_origin_writes(
    api: Api, method: str, path: str, headers: dict[str, str]
) -> None:
    reply = await api.ask(
        method, path, data=b"{}", headers={"Content-Type": "application/json", **headers}
    )
    reply.problem(403, "cross_site")
    assert api.consensus.submits == []
    assert api.consensus.transfers == []


@pytest.mark.parametrize(
    ("method", "path"), [*WRITING, ("GET", "/v1/kv/a"), ("GET", "/v1/kv"), ("GET", "/v1/watch")]
)
async def test_a_foreign_name_leads_to_no_key(api: Api, method: str, path: str) -> None:
    own_too = {"Host": "evil.example:8001", "Origin": "http://evil.example:8001"}
    (await api.ask(method, path, headers=own_too)).problem(421, "wrong_host")
    assert api.consensus.submits == []


async def test_what_is_stored_is_no_page_and_no_script(api: Api) -> None:
    """Whoever may write a value must not run it in the browser of whoever reads it."""
    page = b"<script>fetch('/v1/kv/b', {method: 'DELETE'})</script>"
    written = await api.ask("PUT", "/v1/kv/a", data=page, headers={"Content-Type": "text/html"})
    assert written.status == 201
    for path, kind in (
        ("/v1/kv/a", "application/octet-stream"),
        ("/kv?key=a", "application/json"),
        ("/v1/kv?prefix=a", "application/json"),
        ("/v1/kv/none<script>", "application/problem+json"),
        ("/v1/cluster", "application/json"),
    ):
        for of_page in ({}, {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}):
            reply = await api.ask("GET", path, headers=of_page)
            assert reply.headers["Content-Type"].startswith(kind), path
            assert reply.headers["X-Content-Type-Options"] == "nosniff", path
            told = [name for name in reply.headers if name.lower().startswith("access-control")]
            assert told == [], "no page of another origin is told an answer"
    preflight = await api.ask(
        "OPTIONS",
        "/v1/kv/a",
        headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"},
    )
    assert "Access-Control-Allow-Origin" not in preflight.headers


async def test_this_nodes_own_page_and_clients_write(api: Api) -> None:
    host = f"127.0.0.1:{api.server.port}"
    for headers in (
        {"Origin": f"http://{host}"},
        {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{host}"},
        {},
        {"Host": "n1.example:8001", "Origin": "http://n1.example:8001"},
    ):
        assert (await api.ask("PUT", "/v1/kv/a", data=b"1", headers=headers)).status in (200, 201)
    # whoever looks after a node may do so under any name
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await api.ask("GET", path, headers={"Host": "lb.example"})).status == 200


async def test_names_are_a_setting(open_api: Open) -> None:
    async with open_api(http_names=("kv.example",)) as api:
        assert (
            await api.ask("PUT", "/v1/kv/a", data=b"1", headers={"Host": "kv.example"})
        ).status == 201
        (await api.ask("GET", "/v1/kv/a", headers={"Host": "other.example"})).problem(
            421, "wrong_host"
        )


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""]
)
async def test_json_is_taken_under_its_own_name_alone(api: Api, kind: str) -> None:
    """These a page of another origin may send unasked."""
    body = b'{"writes": [{"put": "a", "value": "1"}]}'
    for path, method in (("/v1/txn", "POST"), ("/kv", "PUT"), ("/v1/cluster/members", "POST")):
        reply = await api.ask(
            method,
            path,
            data=body,
            headers={"Content-Type": kind},
            skip_auto_headers=["Content-Type"],
        )
        reply.problem(415, "unsupported_media_type")
    assert api.consensus.submits == []
    # a value is bytes, whatever they are called
    for raw in ("application/x-www-form-urlencoded", "text/plain"):
        assert (
            await api.ask("PUT", "/v1/kv/a", data=b"1", headers={"Content-Type": raw})
        ).status in (200, 201)


def test_origins_of_members() -> None:
    """A loopback address is found under any name of this machine, any other under its own alone."""
    found = member_origins(("http://127.0.0.1:8002", "https://n3.example"), "far.example:8001")
    assert found == {
        "http://127.0.0.1:8002",
        "http://localhost:8002",
        "http://[::1]:8002",
        "http://far.example:8002",
        "https://n3.example",
    }
    assert member_origins(("", "javascript:x", "http://a;b/"), "x") == frozenset()
    evil = member_origins(("http://127.0.0.1:8002",), "x; script-src *")
    assert evil == member_origins(("http://127.0.0.1:8002",), "")


async def test_pages_of_members_read_the_view_of_the_cluster_and_nothing_else(
    open_api: Open,
) -> None:
    async with open_api() as api:
        api.consensus.members = [
            Member("n2", "http://n2.example:8001", "n2:9001", voter=True, role="follower")
        ]
        for path in ("/v1/activity", "/v1/cluster"):
            reply = await api.ask("GET", path, headers={"Origin": "http://n2.example:8001"})
            allowed = reply.headers["Access-Control-Allow-Origin"]
            assert (reply.status, allowed) == (200, "http://n2.example:8001")
        for path, origin in (
            ("/v1/activity", "http://n2.example:9999"),
            ("/v1/activity", "null"),
            ("/v1/kv/k", "http://n2.example:8001"),
        ):
            reply = await api.ask("GET", path, headers={"Origin": origin})
            assert "Access-Control-Allow-Origin" not in reply.headers
        page = await api.ask("GET", "/")
        policy = page.headers["Content-Security-Policy"]
        assert "connect-src 'self' http://n1.example:8001 http://n2.example:8001;" in policy
