"""What a subscription may be, and how a delivery looks."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from cluster.workers.rules import VALUE_BYTES_MAX, body_of, parse_subscription
from kv.errors import BadRequest
from kv.webhooks import acordo_signature as sign

SOUND = {"url": "https://example.org/hook", "secret": "0123456789abcdef"}


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
