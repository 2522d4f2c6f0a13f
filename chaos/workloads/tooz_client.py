"""Hold locks and be in a group by tooz, in a process of its own: `PYTHON tooz_client.py URL PREFIX
SEED TTL_S`, where PYTHON has tooz.

It prints each operation as a line of JSON, and ends when its standard input does. It imports
nothing of ours, and never uses a lock again of which an outcome is unknown.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

LOCKS = 2
TIMEOUT_S = 3
KEPT = 6
"""How often a lock is kept alive at most while it is held."""


def b64(text: str) -> str:
    """Return a text as keys and values are written in the gateway's JSON."""
    return base64.b64encode(text.encode()).decode()


class Unknown(Exception):
    """An operation may have been done, or not."""


class ToozClient:
    """One member of a group, which takes locks one after the other."""

    def __init__(self, url: str, prefix: str, rng: random.Random, ttl_s: int) -> None:
        from tooz import coordination  # type: ignore[import-not-found]

        parts = urlsplit(url)
        self._prefix, self._rng, self._ttl_ms = prefix, rng, ttl_s * 1000
        self._member = f"m{rng.getrandbits(48):x}"
        options = f"timeout={TIMEOUT_S}&lock_timeout={ttl_s}&membership_timeout={ttl_s}"
        self._coordinator: Any = coordination.get_coordinator(
            f"etcd3+http://{parts.hostname}:{parts.port}?{options}", self._member.encode()
        )
        self._group = f"{prefix}tooz".replace("/", ".")

    def live(self, ended: Callable[[], bool]) -> None:
        """Be a member, and take locks, until that is over or something is unknown."""
        begun = time.monotonic_ns()
        self._coordinator.start(start_heart=False)
        self._say("grant", self._member, begun, value=self._ttl_ms, result=True)
        try:
            self._join()
            while not ended():
                self._keep(self._member, self._coordinator._membership_lease)
                self._hold()
                self._read()
        finally:
            # What a client that goes leaves behind ends with its leases.
            self._coordinator._executor.stop()

    def _do(
        self, op: str, key: str, value: Any, call: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Do an operation and tell of it; return what it showed. Raises Unknown."""
        start = time.monotonic_ns()
        try:
            told = call()
        except Exception as exc:  # tooz and requests have many
            error = f"{type(exc).__name__}: {exc}"
            self._say(op, key, start, value=value, outcome="info", error=error)
            raise Unknown from exc
        self._say(op, key, start, **({"value": value} | told))
        return told

    def _say(self, op: str, key: str, start_ns: int, **more: Any) -> None:
        said = {"op": op, "key": key, "start_ns": start_ns, "outcome": "ok"} | more
        if said["outcome"] != "info":
            said["end_ns"] = time.monotonic_ns()
        print(json.dumps(said), flush=True)

    def _keep(self, name: str, lease: Any) -> None:
        """Keep a lease alive. Raises Unknown when it has ended."""
        told = self._do("keep", name, self._ttl_ms, lambda: {"result": lease.refresh() != -1})
        if not told["result"]:
            raise Unknown

    # ---------------------------------------------------------------------------------------- locks

    def _hold(self) -> None:
        """Try to take a lock; if it is taken, write under its fence, and give it back."""
        name = f"{self._prefix}tooz-lock{self._rng.randrange(LOCKS)}"
        lock = self._coordinator.get_lock(name.encode())
        start = time.monotonic_ns()

        def acquire() -> dict[str, Any]:
            if not lock.acquire(blocking=False):
                return {"result": False}
            found = self._coordinator.client.get(lock._key.decode(), metadata=True)
            own = base64.b64decode(lock._uuid)
            mine = [meta["create_revision"] for value, meta in found if value == own]
            lease = f"{int(lock._lease.id):x}"
            return {"result": bool(mine), "value": lease, "token": int(mine[0]) if mine else None}

        told = self._do("acquire", name, "", acquire)
        if not told["result"]:
            time.sleep(self._rng.uniform(0.0, 0.05))
            return
        lease = told["value"]
        self._say("grant", lease, start, value=self._ttl_ms, result=True)
        for _ in range(self._rng.randint(1, KEPT)):
            self._use(name, lock, lease, told["token"])
            self._keep(lease, lock._lease)
        self._do("release", name, lease, lambda: {"result": bool(lock.release())})

    def _use(self, name: str, lock: Any, lease: str, token: int) -> None:
        """Write under the fence of a lock. Raises Unknown when it is lost."""
        fenced = {"key": b64(f"{name}.fenced"), "value": b64(lease)}
        same = {"key": lock._key_b64, "target": "CREATE", "create_revision": token}

        def call() -> dict[str, Any]:
            txn = {"compare": [same], "success": [{"request_put": fenced}], "failure": []}
            told = self._coordinator.client.transaction(txn)
            revision = int(told["header"]["revision"])
            return {"result": bool(told.get("succeeded")), "token": token, "revision": revision}

        if not self._do("use", name, lease, call)["result"]:
            raise Unknown

    # --------------------------------------------------------------------------------------- groups

    def _join(self) -> None:
        from tooz import coordination

        with contextlib.suppress(coordination.GroupAlreadyExist):
            self._coordinator.create_group(self._group.encode()).get()

        def call() -> dict[str, Any]:
            self._coordinator.join_group(self._group.encode()).get()
            return {"result": True}

        self._do("join", self._group, self._member, call)

    def _read(self) -> None:
        def call() -> dict[str, Any]:
            found = self._coordinator.get_members(self._group.encode()).get()
            return {"result": sorted(each.decode() for each in found)}

        self._do("read", self._group, None, call)


def main(argv: list[str]) -> int:
    """Live one life after the other until standard input ends."""
    url, prefix, seed, ttl_s = argv
    rng, ended = random.Random(seed), threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    while not ended.is_set():
        try:
            ToozClient(url, prefix, rng, int(ttl_s)).live(ended.is_set)
        except Exception as exc:  # noqa: BLE001 - what was unknown was told; the next life begins
            if not isinstance(exc, Unknown):
                print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
            ended.wait(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
