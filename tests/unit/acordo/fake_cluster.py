"""An Acordo in memory behind aiohttp: every route the client speaks, exact revisions, op_ids, and
failures on order.

It stands for the whole cluster; several addresses may serve the same state. `trouble` decides
before each request what goes wrong: nothing, a response instead, or "drop" (act, then cut the
connection without an answer).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web

from acordo._wire.forms import from_json, to_json
from node.api.page import security  # what nodes really send

Trouble = Callable[[web.Request], web.StreamResponse | str | None]


def problem(status: int, code: str, **members: Any) -> web.Response:
    body = msgspec.json.encode({"title": code, "status": status, "code": code, **members})
    headers = {"Retry-After": "1"} if status == 503 else {}
    return web.Response(
        body=body, status=status, content_type="application/problem+json", headers=headers
    )


class FakeCluster:
    """One machine, one ledger; `addresses` is how many ports serve it."""

    def __init__(self, addresses: int = 1, page: Path | None = None) -> None:
        self.revision = 0
        self.floor = 0
        self.history: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self.ops: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self.rows: list[dict[str, Any]] = []
        self.changes: list[tuple[int, str, bytes, bytes | None, str]] = []
        self.leader: str | None = "n1"
        self.term = 1
        self.leaderships: list[dict[str, Any]] = []
        self.waits: list[dict[str, Any]] = []
        self.dead: set[str] = set()
        self.digests: dict[str, str] = {}
        """Members whose machine went astray."""
        self.expires_ms: dict[bytes, int] = {}
        self.leases: dict[bytes, str] = {}
        self.txn_ttls: dict[bytes, float | None] = {}
        """What the newest transaction that put a key said of its ttl."""
        self.bookmarks = False
        """Whether a watch tells its position when there is nothing to tell."""
        self.cluster_id, self.founded = "", ""
        self.log_time_ms = 1_000_000_000
        """Log time as /v1/cluster tells it: no wall clock's."""
        self.refusal: str | None = None
        self.unready: list[dict[str, str]] = []
        self.ttls: list[str] = []
        """What each PUT said of its ttl."""
        self.acknowledged: int | None = 0
        """What /v1/cluster says of it; None: an older node, that does not."""
        self.trouble: Trouble = lambda request: None
        self.requests: list[str] = []
        self.applied = 0
        self._news = asyncio.Event()
        self._addresses, self._page = addresses, page
        self._runners: list[web.AppRunner] = []
        self.urls: list[str] = []

    async def __aenter__(self) -> Self:
        for n in range(1, self._addresses + 1):
            runner = web.AppRunner(self._app(f"n{n}"), shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._runners.append(runner)
            self.urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        for runner in self._runners:
            await runner.cleanup()

    # ---------------------------------------------------------------------------------- the machine

    def at(self, key: bytes, revision: int | None = None) -> tuple[int, bytes | None]:
        versions = self.history.get(key, [])
        found = [v for v in versions if revision is None or v[0] <= revision]
        return found[-1] if found else (0, None)

    def created(self, key: bytes, revision: int) -> int:
        """The revision that made a key present that is present at a revision."""
        found = 0
        for at, value in self.history.get(key, []):
            if at <= revision:
                found = 0 if value is None else found or at
        return found

    def order(self, op_id: str, intent: dict[str, Any]) -> dict[str, Any]:
        """Apply one intent, at most once for its op_id."""
        body = msgspec.json.encode(intent, order="deterministic")
        if op_id in self.ops:
            known, outcome = self.ops[op_id]
            return {**outcome, "again": True} if known in (body, b"") else {"outcome": "mismatch"}
        self.revision += 1
        outcome = self._evaluate(intent, op_id)
        self.ops[op_id] = (body, outcome)
        digest = hashlib.blake2b(
            f"{self.rows[-1]['digest'] if self.rows else ''}{op_id}".encode(), digest_size=32
        )
        row = {
            "seq": len(self.rows) + 1,
            "term": 1,
            "committer": "n1",
            "first": self.revision,
            "last": self.revision,
        }
        self.rows.append({**row, "digest": digest.hexdigest(), "log_time_ms": 0, "body": []})
        self._news.set()
        self._news = asyncio.Event()
        return outcome

    def _evaluate(self, intent: dict[str, Any], op_id: str) -> dict[str, Any]:
        reads = [self._entry(from_json(key)) for key in intent.get("reads", [])]
        branch, writes = "then", intent.get("writes", [])
        for n, guard in enumerate(intent.get("guards", [])):
            revision, value = self.at(from_json(guard["key"]))
            current = revision if value is not None else 0
            holds = (
                ("absent" in guard and value is None)
                or ("exists" in guard and value is not None)
                or ("revision" in guard and current and current in _as_list(guard["revision"]))
                or ("value" in guard and value == from_json(guard["value"]))
            )
            if not holds:
                if "otherwise" not in intent:
                    return {
                        "outcome": "refused",
                        "revision": self.revision,
                        "guard": n,
                        "current": current,
                    }
                branch, writes = "otherwise", intent["otherwise"]
                break
        existed = None
        for write in writes:
            key = from_json(write.get("put", write.get("delete")))
            existed = self.at(key)[1] is not None
            value = from_json(write["value"]) if "put" in write else None
            if value is not None:
                self.txn_ttls[key] = write.get("ttl")
            if value is not None or existed:
                self.history.setdefault(key, []).append((self.revision, value))
                self.changes.append(
                    (self.revision, "put" if value is not None else "delete", key, value, op_id)
                )
        self.applied += 1
        return {
            "outcome": "applied",
            "revision": self.revision,
            "branch": branch,
            "existed": existed,
            "reads": reads,
        }

    def _ends(self, key: bytes) -> dict[str, Any]:
        """What is told of a key's end, which is the same for all its versions."""
        ends: dict[str, Any] = {}
        if key in self.expires_ms:
            ends["expires_ms"] = self.expires_ms[key]
        if key in self.leases:
            ends["lease"] = self.leases[key]
        return ends

    def _entry(self, key: bytes) -> dict[str, Any]:
        revision, value = self.at(key)
        return {
            "key": to_json(key),
            "value": None if value is None else to_json(value),
            "revision": revision,
        }

    # --------------------------------------------------------------------------------------- routes

    def _app(self, node: str) -> web.Application:
        @web.middleware
        async def play(request: web.Request, handler: Any) -> web.StreamResponse:
            self.requests.append(f"{request.method} {request.raw_path}")
            if node in self.dead:
                assert request.transport
                request.transport.abort()
                return web.Response()
            trouble = self.trouble(request)
            if isinstance(trouble, web.StreamResponse):
                return trouble
            try:
                response: web.StreamResponse = await handler(request)
            except web.HTTPException as exc:
                response = problem(
                    exc.status,
                    {404: "unknown_path", 405: "method_not_allowed"}.get(exc.status, "bad"),
                )
            if trouble == "drop":
                assert request.transport
                request.transport.abort()
            return response

        async def sign(request: web.Request, response: web.StreamResponse) -> None:
            response.headers.setdefault("Acordo-Node", node)
            response.headers.setdefault("Acordo-Revision", str(self.revision))
            origin = request.headers.get("Origin")
            if request.path in ("/v1/cluster", "/v1/activity") and origin in self.urls:
                response.headers["Access-Control-Allow-Origin"] = str(origin)
                response.headers["Access-Control-Allow-Credentials"] = "true"
            if request.method == "GET":
                response.headers.setdefault(
                    "Acordo-Level", request.query.get("consistency", "linearizable")
                )

        app = web.Application(middlewares=[play], client_max_size=8 * 1024 * 1024)
        app.on_response_prepare.append(sign)
        app.router.add_get("/v1/kv", self._list)
        for method in ("GET", "PUT", "DELETE"):
            app.router.add_route(method, "/v1/kv/{key:[^/]+}", self._one)
        app.router.add_post("/v1/txn", self._txn)
        app.router.add_post("/v1/batch", self._batch)
        app.router.add_get("/v1/operations/{op_id}", self._operation)
        app.router.add_post("/v1/operations/{op_id}", self._operation)
        app.router.add_get("/v1/watch", self._watch)
        app.router.add_get("/v1/leader", self._leader)

        async def cluster(request: web.Request) -> web.Response:
            return await self._cluster(node)

        app.router.add_get("/v1/cluster", cluster)

        async def activity(request: web.Request) -> web.Response:
            return self._activity(node)

        app.router.add_get("/v1/activity", activity)
        app.router.add_get("/v1/ledger", self._ledger)
        app.router.add_post("/v1/cluster/transfer", self._transfer)
        app.router.add_post("/v1/async", self._async)
        if self._page is not None:
            self._add_page(app, self._page)
        return app

    async def _one(self, request: web.Request) -> web.Response:
        key = unquote_to_bytes(request.raw_path.split("?")[0].removeprefix("/v1/kv/"))
        if len(key) > 1024:
            return problem(400, "key_too_long", detail="the key has more than 1024 bytes")
        if request.method == "GET":
            as_of = int(request.query.get("revision", self.revision))
            if "revision" in request.query and as_of < self.floor:
                return problem(410, "pruned", floor=self.floor)
            revision, value = self.at(key, as_of)
            if value is None:
                return problem(404, "key_not_found", detail="there is no such key")
            more = {"Acordo-Expires": str(self.expires_ms[key])} if key in self.expires_ms else {}
            more["Acordo-Create-Revision"] = str(self.created(key, as_of))
            return web.Response(body=value, headers={"ETag": f'"{revision}"'} | more)
        guards: list[dict[str, Any]] = []
        if request.headers.get("If-None-Match") == "*":
            guards = [{"key": to_json(key), "absent": True}]
        elif request.headers.get("If-Match") == "*":
            guards = [{"key": to_json(key), "exists": True}]
        elif "If-Match" in request.headers:
            guards = [
                {"key": to_json(key), "revision": int(request.headers["If-Match"].strip('"'))}
            ]
        if request.method == "PUT":
            value = await request.read()
            self.ttls.append(request.query.get("ttl", ""))
            if len(value) > 1024 * 1024:
                return problem(
                    413, "value_too_large", detail="the value has more than 1048576 bytes"
                )
            writes: list[dict[str, Any]] = [{"put": to_json(key), "value": to_json(value)}]
        else:
            writes = [{"delete": to_json(key)}]
        op_id = request.headers.get("Idempotency-Key", f"~{self.revision}").strip('"')
        outcome = self.order(op_id, {"guards": guards, "writes": writes})
        return self._told(outcome, 412, created=201 if request.method == "PUT" else 200)

    def _told(self, outcome: dict[str, Any], refused: int, created: int = 200) -> web.Response:
        match outcome["outcome"]:
            case "refused":
                return problem(
                    refused, "refused", detail="a guard did not hold", **outcome | {"outcome": None}
                )
            case "mismatch":
                return problem(422, "mismatch", detail="this op_id is known with another body")
            case "expired":
                return problem(503, "expired", outcome="not_applied")
        status = created if outcome.get("existed") is False else 200
        headers = {"ETag": f'"{outcome["revision"]}"'}
        return web.json_response(outcome, status=status, headers=headers)

    async def _txn(self, request: web.Request) -> web.Response:
        intent = await request.json()
        if not intent.get("writes") and not intent.get("otherwise"):
            reads = [self._entry(from_json(key)) for key in intent.get("reads", [])]
            return web.json_response({"revision": self.revision, "branch": "then", "reads": reads})
        return self._told(self.order(request.headers["Idempotency-Key"].strip('"'), intent), 409)

    async def _batch(self, request: web.Request) -> web.Response:
        operations = (await request.json())["operations"]
        for n, op in enumerate(operations):
            if any(
                len(from_json(w.get("put", w.get("delete")))) > 1024 for w in op.get("writes", [])
            ):
                return problem(
                    400,
                    "key_too_long",
                    outcome="not_applied",
                    detail=f"operations[{n}]: the key is long",
                )
        return web.json_response(
            {"results": [self.order(op.pop("op_id"), op) for op in operations]}
        )

    async def _async(self, request: web.Request) -> web.Response:
        op_id = request.headers["Idempotency-Key"].strip('"')
        self.order(op_id, await request.json())
        return web.json_response({"operation": f"/v1/operations/{op_id}"}, status=202)

    async def _operation(self, request: web.Request) -> web.Response:
        op_id = request.match_info["op_id"]
        if op_id not in self.ops and request.method == "GET":
            return web.json_response({"op_id": op_id, "outcome": "unknown", "code": "not_ordered"})
        if op_id not in self.ops:
            self.revision += 1
            self.ops[op_id] = (b"", {"outcome": "expired", "revision": self.revision})
        return web.json_response(self.ops[op_id][1])

    async def _list(self, request: web.Request) -> web.Response:
        raw = {
            k: unquote_to_bytes(v)
            for k, _, v in (p.partition("=") for p in request.query_string.split("&"))
        }
        prefix, limit = raw.get("prefix", b""), int(raw.get("limit", b"100"))
        revision, after = int(raw.get("revision", self.revision)), b""
        if token := raw.get("continue"):
            revision, after = (
                int(token.split(b":")[0]),
                bytes.fromhex(token.split(b":")[1].decode()),
            )
        if revision < self.floor:
            return problem(
                410,
                "pruned",
                floor=self.floor,
                detail=f"revisions below {self.floor} are forgotten",
            )
        entries: list[dict[str, Any]] = []
        for key in sorted(self.history):
            at, value = self.at(key, revision)
            if key.startswith(prefix) and key > after and value is not None:
                value_form = {} if raw.get("keys_only") else {"value": to_json(value)}
                form = {"key": to_json(key), **value_form, "revision": at}
                entries.append(form | self._ends(key))
        shown: dict[bytes, dict[str, Any] | None] = {}  # None: it is a folder
        for entry in entries:
            key = from_json(entry["key"])
            before, found, _ = key[len(prefix) :].partition(raw.get("separator") or b"\xff" * 9)
            name = prefix + before + found
            if name != after:  # the folder that the page before ended with
                shown[name] = None if found else entry
        names = list(shown)[:limit]
        page = [kept for name in names if (kept := shown[name]) is not None]
        folders = [name for name in names if shown[name] is None]
        token = f"{revision}:{names[-1].hex()}".encode() if len(shown) > limit else None
        return web.json_response(
            {
                "items": page,
                "prefixes": [to_json(each) for each in folders],
                "revision": revision,
                "continue": token.decode() if token else None,
            }
        )

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        raw = {
            k: unquote_to_bytes(v)
            for k, _, v in (p.partition("=") for p in request.query_string.split("&"))
        }
        after = raw.get("after", str(self.revision).encode()).decode()
        prefix, position = (
            raw.get("prefix", b""),
            int(request.headers.get("Last-Event-ID", after)),
        )
        if position < self.floor:
            return problem(410, "pruned", floor=self.floor)
        if "poll" in raw:
            return await self._poll(prefix, position, float(raw["poll"]))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            news = self._news
            todo = [c for c in self.changes if c[0] > position and c[2].startswith(prefix)]
            for n, (revision, kind, key, value, op_id) in enumerate(todo):
                data = {"key": to_json(key), "revision": revision, "op_id": op_id}
                if value is not None:
                    data |= {"value": to_json(value)} | self._ends(key)
                last = n + 1 == len(todo) or todo[n + 1][0] != revision
                told = f"event: {kind}\ndata: {msgspec.json.encode(data).decode()}\n"
                await response.write((told + (f"id: {revision}\n\n" if last else "\n")).encode())
                position = revision
            if todo and self.trouble(request) == "cut":
                return response
            if self.bookmarks and position < self.revision:
                position = self.revision
                await response.write(f"id: {position}\nevent: progress\ndata: {{}}\n\n".encode())
            await news.wait()

    async def _poll(self, prefix: bytes, position: int, wait_s: float) -> web.Response:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not any(c[0] > position and c[2].startswith(prefix) for c in self.changes):
                    await self._news.wait()
        todo = [c for c in self.changes if c[0] > position and c[2].startswith(prefix)]
        events = [
            {"event": kind, "key": to_json(key), "revision": revision, "op_id": op_id}
            | ({} if value is None else {"value": to_json(value)})
            for revision, kind, key, value, op_id in todo
        ]
        end = {"next": str(self.revision), "revision": self.revision}
        return web.json_response({"events": events, **end})

    async def _leader(self, request: web.Request) -> web.Response:
        if self.leader is None:
            return problem(503, "no_leader", outcome="not_applied", detail="no leader is known")
        url = self.urls[int(self.leader[1:]) - 1]
        return web.json_response(
            {"id": self.leader, "url": url, "term": 1, "quorum": True, "since_ms": 1}
        )

    async def _cluster(self, node: str) -> web.Response:
        members = [
            {
                "id": f"n{n}",
                "url": url,
                "voter": True,
                "role": "unknown"
                if f"n{n}" in self.dead
                else "leader"
                if f"n{n}" == self.leader
                else "follower",
                "term": 1,
                "applied": self.revision,
                "settled": self.revision,
                "digest": self.digests.get(f"n{n}")
                or (self.rows[-1]["digest"] if self.rows else "00" * 32),
                "lag": 0,
                "last_seen_s": 9.5 if f"n{n}" in self.dead else 0.1,
            }
            for n, url in enumerate(self.urls, 1)
        ]
        return web.json_response(
            {
                "node": node,
                "role": "leader" if node == self.leader else "follower",
                "term": self.term,
                "leader": self.leader,
                "leader_url": self.urls[int(self.leader[1:]) - 1] if self.leader else None,
                "quorum": self.leader is not None,
                "ordered": self.revision,
                "settled": self.revision,
                "digest": "ab" * 32,
                "cluster_id": self.cluster_id,
                "history": self.founded,
                "refusal": self.refusal,
                "url": self.urls[int(node[1:]) - 1],
                "writes_acknowledged": self.acknowledged,
                "now_ms": self.log_time_ms,
                "unready": self.unready,
                "members": members,
            }
        )

    def _activity(self, node: str) -> web.Response:
        if self.acknowledged is None:
            return problem(404, "unknown_path")
        done = self.acknowledged if node == "n1" else 0
        leads = node == self.leader
        return web.json_response(
            {
                "node": node,
                "url": self.urls[int(node[1:]) - 1],
                "role": "leader" if leads else "follower",
                "leader": self.leader,
                "term": self.term,
                "quorum": self.leader is not None,
                "wall_ms": int(time.time() * 1000),
                "incarnation": "1",
                "writes_acknowledged": done,
                "write_ms": {"bounds": [1.0, 10.0, 100.0], "counts": [0, done, 0, 0]},
                "waits": self.waits,
                "leaderships": self.leaderships,
            }
        )

    async def _ledger(self, request: web.Request) -> web.Response:
        start, limit = int(request.query.get("from", 1)), int(request.query.get("limit", 100))
        rows = self.rows[start - 1 : start - 1 + limit]
        following = start + len(rows) if start + len(rows) <= len(self.rows) else None
        return web.json_response({"rows": rows, "next": following})

    async def _transfer(self, request: web.Request) -> web.Response:
        self.leader = (await request.json()).get("to") or "n2"
        return web.json_response({"leader": self.leader})

    def _add_page(self, app: web.Application, page: Path) -> None:

        def file(name: str, kind: str) -> Callable[[web.Request], Any]:
            async def serve(request: web.Request) -> web.Response:
                body = (page / name).read_bytes()
                return web.Response(
                    body=body, content_type=kind, charset="utf-8", headers=security(self.urls)
                )

            return serve

        app.router.add_get("/", file("index.html", "text/html"))
        for kind, content_type in (("js", "text/javascript"), ("css", "text/css")):
            for found in page.rglob(f"*.{kind}"):
                name = found.relative_to(page).as_posix()
                app.router.add_get(f"/page/{name}", file(name, content_type))


def _as_list(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value]
