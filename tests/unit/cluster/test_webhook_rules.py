"""What a subscription may be, and where deliveries may go."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from cluster.workers.addresses import forbidden
from cluster.workers.resolver import CheckedResolver, Forbidden
from cluster.workers.rules import VALUE_BYTES_MAX, body_of, parse_subscription, sign
from kv.errors import BadRequest

SOUND = {"url": "https://example.org/hook", "secret": "0123456789abcdef"}


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254",
     "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1",
     "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%lo", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
     "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1", "2001::1", "no address",
     "192.0.0.192", "192.0.0.9", "168.63.129.16", "fec0::1", "3fff::1", "3fff:fff::1",
     "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1", "100.100.100.200",
     "::ffff:168.63.129.16", "64:ff9b:1::1", "fd00:ec2::254", "::7f00:1", "5f00::1", "100::1",
     "2001:20::1", "2620:4f:8000::1", "2a00::5efe:7f00:1", "2a00::200:5efe:a00:1", "4000::1",
     "239.1.1.1"],
)  # fmt: skip
def test_inward_addresses_are_forbidden(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "8.8.8.8",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "168.63.129.17",
        "192.0.1.1",
        "2001:4860:4860::8888",
        "2a00:1450::1",
        "3ffe::1",
    ],
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert forbidden(address) is None


@pytest.mark.parametrize(
    "change",
    [{"url": "ftp://example.org/"}, {"url": "http://"}, {"url": "http://u:p@example.org/"},
     {"url": "x"}, {"url": "http://example.org:0/"}, {"url": "http://example.org:99999/"},
     {"url": "http://[::1/"}, {"url": "http://example.org/\n"}, {"secret": "short"},
     {"secret": "x" * 257}, {"after": -1}, {"more": 1}, {"prefix": 7}],
)  # fmt: skip
def test_bad_subscriptions_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match="subscription 's'"):
        parse_subscription("s", json.dumps(SOUND | change).encode())


@pytest.mark.parametrize("name", ["", "a/b", ".x", "x" * 65, "ü"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        parse_subscription(name, json.dumps(SOUND).encode())


def test_a_sound_one_is_taken() -> None:
    assert parse_subscription("s-1", json.dumps(SOUND).encode()).prefix == ""


def test_signatures_cover_time_and_body() -> None:
    wanted = hmac.new(b"secret", b"12.body", hashlib.sha256).hexdigest()
    assert sign("secret", 12, b"body") == f"v1={wanted}"
    assert (
        len({sign("secret", 12, b"body"), sign("secret", 13, b"body"), sign("secreT", 12, b"body")})
        == 3
    )


def test_large_values_are_left_out() -> None:
    told = json.loads(body_of("put", b"k", bytes(VALUE_BYTES_MAX + 1), 3, None))
    assert told["size"] == VALUE_BYTES_MAX + 1 and "value" not in told


async def test_names_that_lead_inward_are_refused() -> None:
    with pytest.raises(Forbidden):
        await CheckedResolver(allow_private=False).resolve("localhost", 80)
    assert await CheckedResolver(allow_private=True).resolve("localhost", 80)
