"""A cache over TLS: the server's certificate is verified, and who has its password alone forges
nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trustme
from redis.asyncio import Redis

from backends.redis import KEY_PREFIX, RedisCache
from backends.seal import seal
from cluster.services.redis import RedisServer
from kv.model import Entry, Version
from kv.ports import Space
from tests.services import needs

SPACE = Space(7, b"k" * 32)
TRUE = Entry(b"k", Version(b"k", 5, b"true"), 7)


class TlsRedis(RedisServer):
    """A Redis that speaks TLS and nothing else."""

    def __init__(self, files: Path) -> None:
        super().__init__()
        self.files = files
        authority = trustme.CA()
        own = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(str(files / "ca.pem"))
        own.private_key_pem.write_to_path(str(files / "redis.key"))
        own.cert_chain_pems[0].write_to_path(str(files / "redis.pem"))

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={self.files / 'ca.pem'}"

    def command(self) -> Sequence[str]:
        plain = list(super().command())
        plain[plain.index("--port") + 1] = "0"
        return [
            *plain,
            *("--tls-port", str(self.port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(self.files / "redis.pem")),
            *("--tls-key-file", str(self.files / "redis.key")),
            *("--tls-ca-cert-file", str(self.files / "ca.pem")),
        ]

    def cli(self, *words: str) -> str:
        return super().cli("--tls", "--cacert", str(self.files / "ca.pem"), *words)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TlsRedis]:
    needs("redis")
    with TlsRedis(tmp_path) as started:
        yield started


async def test_entries_go_over_tls_and_a_forged_one_is_no_entry(server: TlsRedis) -> None:
    async with RedisCache.from_url(server.url, call_timeout_s=5) as cache:
        assert cache.healthy()
        await cache.put(SPACE, [TRUE])
        assert await cache.get(SPACE, [b"k"]) == (TRUE,)
        writer = Redis.from_url(server.url)
        (key,) = await writer.keys(KEY_PREFIX + b"*")
        forged = Entry(b"k", Version(b"k", 9, b"forged"), 9)
        genuine = await writer.get(key)
        assert isinstance(genuine, bytes)
        altered = genuine.replace(b"true", b"fals")
        for content in (seal(Space(7, b"guess" * 7), forged), altered, b"", b"x" * 4096):
            await writer.set(key, content)
            assert await cache.get(SPACE, [b"k"]) == (None,)
        await writer.set(key, genuine)
        assert await cache.get(SPACE, [b"k"]) == (TRUE,), "an old one may be put back: judged"
        await writer.aclose()


async def test_an_unknown_authority_and_plain_text_reach_no_cache(server: TlsRedis) -> None:
    for url in (
        f"rediss://127.0.0.1:{server.port}/0",
        f"redis://127.0.0.1:{server.port}/0",
    ):
        async with RedisCache.from_url(url, call_timeout_s=5) as cache:
            assert not cache.healthy(), url
