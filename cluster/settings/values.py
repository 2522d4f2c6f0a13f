"""Define the kinds of value that a setting can have, and refuse other values. Pure.

This module does not know where a setting was given.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from kv.addresses import is_loopback

PREFIX: Final = "ACORDO_"

ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,252}[a-z0-9_])?")
STORES: Final = ("postgresql", "cockroachdb")
REPLICATED: Final = "replicated"
"""The store of which every member keeps its own copy."""
SHARED_FILE: Final = "sqlite"
"""The scheme of the store that version 0.1 had by default: one file, shared by all nodes of a
machine.
"""
GONE: Final = (
    "no nodes share a file any more. Leave ACORDO_STORE empty, and every member keeps its own copy."
    " What is in the file comes over by `acordo dump` with version 0.1 and `acordo load` in the "
    "new cluster: expiries are kept, op_ids and history are not"
)
CACHES: Final = ("memory", "redis", "rediss", "redis+sentinel")
BROADCASTS: Final = ("local", "amqp", "amqps")


class MemberSetting(NamedTuple):
    """One member as it is written in the settings."""

    id: str
    raft_address: str
    voter: bool = True

    def __str__(self) -> str:
        return f"{self.id}={self.raft_address}" + ("" if self.voter else "/observer")


def as_text(value: object) -> str:
    """Return a value in the form that it has in the environment or in a file."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}".removesuffix(".0")
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def address(text: str) -> str:
    """Return a host:port unchanged. Raises ValueError for anything else."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("no host:port")
    return text


def members_of(given: object) -> object:
    """Parse a list of members; return anything but a string unchanged. Raises ValueError."""
    if not isinstance(given, str):
        return given
    members: list[MemberSetting] = []
    for part in filter(None, (p.strip() for p in given.split(","))):
        name, equals, rest = part.partition("=")
        where, slash, role = rest.partition("/")
        if not (equals and ID.fullmatch(name)) or (slash and role != "observer"):
            raise ValueError(f"{part!r} is no member")
        members.append(MemberSetting(name, address(where), not slash))
    if len({m.id for m in members}) < len(members) or len({m.raft_address for m in members}) < len(
        members
    ):
        raise ValueError("a member or an address is named twice")
    return tuple(members)


def names_of(given: object) -> object:
    """Parse a list of host names, or `*`; return anything but a string unchanged. Raises
    ValueError.
    """
    if not isinstance(given, str):
        return given
    names = tuple(filter(None, (name.strip().lower().rstrip(".") for name in given.split(","))))
    if not all(name == "*" or _NAME.fullmatch(name) for name in names):
        raise ValueError("no name of a machine (without scheme and port)")
    return names


def node_id_of(given: str) -> str:
    """Return an id unchanged. Raises ValueError for anything else."""
    if not ID.fullmatch(given):
        raise ValueError("no id")
    return given


def name_of(given: str) -> str:
    """Return an id or an empty string unchanged. Raises ValueError for anything else."""
    return node_id_of(given) if given else given


def scheme(*allowed: str) -> BeforeValidator:
    """Return a validator that refuses URLs of other schemes."""

    def check(given: str) -> str:
        if given and urlsplit(given).scheme not in allowed:
            raise ValueError("unknown scheme")
        return given

    return BeforeValidator(check)


def store_of(given: str) -> str:
    """Return an empty string, `replicated`, or the URL of a shared store unchanged. Raises
    ValueError, and PydanticCustomError("gone") for the file that nodes shared once.
    """
    if urlsplit(given).scheme == SHARED_FILE:
        raise PydanticCustomError("gone", "{why}", {"why": GONE})
    if given not in ("", REPLICATED) and urlsplit(given).scheme not in STORES:
        raise ValueError("no store")
    return given


def http_url(given: str) -> str:
    """Return an HTTP URL without trailing slashes. Raises ValueError."""
    parts = urlsplit(given)
    if given and not (parts.scheme in ("http", "https") and parts.hostname):
        raise ValueError("no http URL")
    return given.rstrip("/")


def place_of_backups(given: str) -> str:
    """Return a directory's path or the URL of a bucket unchanged. Raises ValueError."""
    if "://" in given:
        parts = urlsplit(given)
        if parts.scheme != "s3" or not parts.netloc or parts.query or "@" in parts.netloc:
            raise ValueError("no bucket")
    return given


def setting(default: Any, text: str, allowed: str, **limits: Any) -> Any:
    """Return a field with its default, its meaning, and a description of the allowed values."""
    return Field(
        default,
        description=text,
        json_schema_extra={"allowed": allowed},
        validate_default=False,
        **limits,
    )


def seconds(default: float, text: str, low: float, high: float) -> Any:
    """Return a field for a number of seconds between `low` and `high`."""
    return setting(default, text, f"seconds, {as_text(low)} to {as_text(high)}", ge=low, le=high)


def count(default: int, text: str, low: int, high: int) -> Any:
    """Return a field for a whole number between `low` and `high`."""
    return setting(default, text, f"a whole number, {low} to {high}", ge=low, le=high)


def refuse_open(host: str, is_open: bool, *, https: bool) -> None:
    """Raise ValueError for an address that other machines can reach, unless HTTPS is served there
    or `is_open` is set.
    """
    if not is_open and not https and not is_loopback(host.strip("[]")):
        raise ValueError(
            f"HTTP would listen on {host or 'every address'}, and whoever reaches it may read all "
            "that is said. Give it a certificate (http_tls_cert_file), or say http_open=true if "
            "something else keeps strangers out"
        )
