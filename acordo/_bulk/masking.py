"""Mask what is secret in text that leaves the machine: tokens, passwords, values of settings. Pure.

When in doubt it masks: of settings it lets pass only those of Acordo, by the form of their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

MASK: Final = "***"
LINE_CHARS_MAX: Final = 2000
PREFIX: Final = "ACORDO_"

_SECRET_NAME: Final = re.compile(r"(?i)(secret|token|password|passwd|credential|key)")
_TOKENS: Final = re.compile(r"acordo_[0-9a-f]{12}_[A-Za-z0-9_-]+")
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+")
_LOGIN: Final = re.compile(r"(://[^\s:/@?#\"']*):[^\s\"']*@")
_USER: Final = re.compile(r"://[^\s:/@?#\"']+@")
_QUOTED: Final = r"""(?: "(?:[^"\\]|\\.)*(?:"|\\?\Z) | '(?:[^'\\]|\\.)*(?:'|\\?\Z)
    | (\\+["']) (?:(?!\2).)* (?:\2|\Z) )"""
"""Text in quotes, also in those of JSON within JSON, and with the end cut off."""
_HEADER: Final = re.compile(
    rf"""(?ix) ( \b (?: authorization | (?:set-)?cookie ) (?:\\*["'])? \s* [=:] \s*)
    (?: {_QUOTED} | [^\r\n"'\\]+ )"""
)
_FIELD: Final = re.compile(
    rf"""(?ix) ( \b (?: values? | body | prev_value
    | [a-z0-9_-]{{0,40}} (?: secret | token | passw(?:or)?d | credentials? | csrf | session
    | signature | (?: api | access | private | page | tls ) [_-]? key (?:[_-]id)? ) )
    (?:\\*["'])? \s* [=:] \s*)
    (?: \[ [^\]]* \]? | \{{ [^}}]* \}}? | [^\s,;}}"'\\]* {_QUOTED}
    | [^\s,;}}"'\\]+ (?: ,[^\s,;}}"'\\]+ )* )"""
)
"""Also what Python shows of bytes (b'…'), and lists."""
_QUERY: Final = re.compile(
    r"(?i)([?&](?:[a-z0-9_-]*(?:password|secret|token|credential)|[a-z0-9_-]*sig[a-z]*)=)[^&#\s\"']*"
)
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"(?:.*?-----END [A-Z ]*KEY-----|[A-Za-z0-9+/=\s\\]*)"
    r"|(?:^[A-Za-z0-9+/=]{4,}\s+)+-----END [A-Z ]*PRIVATE KEY-----",
    re.DOTALL | re.MULTILINE,
)
"""Of a text that begins in the middle of a key, what is left of that."""


def masked(text: str) -> str:
    """Return text without tokens, passwords, private keys, and without fields that hold a value."""
    text = _PEM.sub(MASK, text)
    text = _HEADER.sub(lambda found: found[1] + MASK, text)
    text = _FIELD.sub(lambda found: found[1] + MASK, text)
    text = _BEARER.sub(lambda found: f"{found[1]} {MASK}", text)
    text = _TOKENS.sub(MASK, text)
    text = _LOGIN.sub(lambda found: f"{found[1]}:{MASK}@", text)
    text = _USER.sub(f"://{MASK}@", text)
    return _QUERY.sub(lambda found: found[1] + MASK, text)


def masked_lines(lines: Iterable[str]) -> str:
    """Return lines of a log, each masked and cut; a private key goes over several of them."""
    whole = _PEM.sub(MASK, "".join(line.rstrip("\r\n") + "\n" for line in lines))
    return "".join(masked(line)[:LINE_CHARS_MAX] + "\n" for line in whole.split("\n")[:-1])


def masked_settings(given: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of Acordo among variables, without what is secret in them.

    A secret is told by its name, unless that ends with `_FILE`: then it is a path.
    """
    found = {}
    for name in sorted(given):
        if name.startswith(PREFIX):
            secret = _SECRET_NAME.search(name) and not name.endswith("_FILE")
            found[name] = MASK if secret and given[name] else masked(given[name])
    return found


def variables_of(text: str) -> dict[str, str]:
    """Return the variables of a file of settings; lines of another form are left out."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            found[name.strip()] = value.strip().strip("\"'")
    return found
