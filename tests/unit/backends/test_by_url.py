"""Which adapter a URL gives, and what a wrong one is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from backends import by_url
from backends.local.broadcast import LocalBroadcast
from backends.local.cache import MemoryCache
from backends.memory.store import MemoryStore
from backends.postgres.hosts import dsn_per_host
from kv.errors import BadRequest

ROOT = Path(__file__).parents[3]


def test_embedded_adapters() -> None:
    assert isinstance(by_url.store("memory://"), MemoryStore)
    assert isinstance(by_url.cache("memory://"), MemoryCache)
    assert isinstance(by_url.broadcast("local://"), LocalBroadcast)


@pytest.mark.parametrize(
    ("make", "url", "code", "names"),
    [
        (by_url.store, "mysql://u:secret@h/db", "store_url", "postgresql://"),
        (by_url.store, "", "store_url", "postgresql://"),
        (by_url.store, "store.sqlite", "store_url", "postgresql://"),
        (by_url.store, "sqlite:///x", "store_url", "postgresql://"),
        (by_url.store, "memory://host", "store_url", "memory://"),
        (by_url.store, "redis://h", "store_url", "cockroachdb://"),
        (by_url.cache, "memcached://u:secret@h", "cache_url", "redis+sentinel://"),
        (by_url.cache, "sqlite:///x", "cache_url", "redis://"),
        (by_url.cache, "memory://x", "cache_url", "memory://"),
        (by_url.broadcast, "kafka://u:secret@h", "broadcast_url", "amqps://"),
        (by_url.broadcast, "local://x", "broadcast_url", "local://"),
    ],
)
def test_a_wrong_url_is_told_what_is_allowed(
    make: Callable[[str], object], url: str, code: str, names: str
) -> None:
    with pytest.raises(BadRequest) as refusal:
        make(url)
    assert refusal.value.code == code
    assert names in (refusal.value.allowed or "")
    assert "secret" not in str(refusal.value)


def test_no_client_library_is_imported_before_it_is_named() -> None:
    """In a fresh interpreter: here other tests may have imported them."""
    program = (
        "import sys; from backends import by_url as b; "
        "b.store('memory://'), b.cache('memory://'), b.broadcast('local://');"
        "names = ('asyncpg', 'redis', 'aiormq', 'backends.postgres');"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_how_a_server_is_verified_goes_to_each_of_its_hosts() -> None:
    made = dsn_per_host("postgresql://u@h1,h2:9/d?sslmode=verify-full&sslrootcert=/a%20b/ca.pem")
    assert [urlsplit(dsn).netloc for dsn in made] == ["u@h1:5432", "u@h2:9"]
    for dsn in made:
        assert dict(parse_qsl(urlsplit(dsn).query)) == {
            "sslmode": "verify-full",
            "sslrootcert": "/a b/ca.pem",
        }
