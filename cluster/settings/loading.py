"""Load settings from flags, the environment, a file and defaults, in this order of precedence.

A wrong value or an unknown name is refused with a list of what is allowed. This module never
guesses, and never prints a password.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from dotenv import dotenv_values
from pydantic import ValidationError

from cluster.settings.shared import SharedSettings
from cluster.settings.values import PREFIX, as_text
from kv.errors import BadRequest

NOT_OURS: Final = (
    "ACORDO_TEST_",
    "ACORDO_CONFIG",
    "ACORDO_URL",
    "ACORDO_WORKER_",
    "ACORDO_WEBHOOK_",
    "ACORDO_AUTOSCALER_",
)
"""Prefixes that a node or runner ignores: test switches, the settings file itself, and the settings
of the client and the workers.
"""
OF_CLIENTS: Final = frozenset(
    {"ACORDO_CA", "ACORDO_CERT", "ACORDO_CERT_KEY", "ACORDO_TOKEN", "ACORDO_TOKEN_FILE"}
)
"""Settings of the client, whole names: as prefixes they would cover misspelt names of a node's."""

_S = TypeVar("_S", bound="SharedSettings")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadRequest("bad_settings", message, allowed=f"see {self.prog} --help")


def load(cls: type[_S], argv: Sequence[str], *, prog: str) -> _S:
    """Return the settings from flags, environment and file. Raises BadRequest("bad_settings")."""
    flags = _flags(cls, argv, prog)
    path = flags.pop("config", None) or os.environ.get(PREFIX + "CONFIG")
    in_file = _in_file(path) if path else {}
    complaints = _unknown(cls, os.environ, "the environment") + _unknown(cls, in_file, str(path))
    if complaints:
        raise BadRequest("bad_settings", "\n".join(complaints))
    given: dict[str, Any] = {"_env_file": path, **flags}  # strings: pydantic parses them
    try:
        return cls(**given)
    except ValidationError as exc:
        raise BadRequest("bad_settings", "\n".join(_explained(cls, exc, flags, in_file))) from exc


def redacted(settings: SharedSettings) -> dict[str, str]:
    """Return every effective setting as text, with passwords hidden."""
    return {
        PREFIX + name.upper(): hide_password(as_text(getattr(settings, name)))
        for name in type(settings).model_fields
    }


_LOGIN: Final = re.compile(r"(?s)(.*?://[^:/@?#]*):(.*)@")
"""Scheme, user and password of a URL. A / ? # or @ before the last @ counts as part of the
password, although a URL parser would end the password there: otherwise the rest of it would be
shown.
"""


def hide_password(url: str) -> str:
    """Replace the password in a URL, and secrets in its query, by ***. Other text is unchanged."""
    shown = _LOGIN.sub(lambda found: f"{found[1]}:***@", url, count=1)
    return (
        re.sub(r"(?i)([?&](?:[a-z_]*password|secret|token)=)[^&#]*", r"\1***", shown)
        if "://" in shown
        else shown
    )


def table(cls: type[SharedSettings]) -> str:
    """Return the settings as a Markdown table, for docs/settings.md."""
    rows = ["| setting | default | meaning | allowed |", "|---|---|---|---|"]
    for name, field in cls.model_fields.items():
        default = as_text(field.default) or "(empty)"
        rows.append(
            f"| `{PREFIX}{name.upper()}` | `{default}` | {field.description} | "
            f"{_allowed(cls, name)} |"
        )
    return "\n".join(rows)


def _allowed(cls: type[SharedSettings], name: str) -> str:
    extra = cls.model_fields[name].json_schema_extra
    return str(extra["allowed"]) if isinstance(extra, dict) else ""


def _flags(cls: type[SharedSettings], argv: Sequence[str], prog: str) -> dict[str, str]:
    parser = _Parser(
        prog=prog,
        allow_abbrev=False,
        description=f"Each setting is a flag, a variable {PREFIX}NAME of the environment, or such "
        "a line in a file; the first of these that gives it wins.",
    )
    parser.add_argument("--config", metavar="FILE", help=f"file of lines {PREFIX}NAME=value")
    for name, field in cls.model_fields.items():
        text = (
            f"{field.description}. Allowed: {_allowed(cls, name)}. Default: "
            f"{as_text(field.default) or 'empty'}"
        )
        parser.add_argument(
            "--" + name.replace("_", "-"), dest=name, metavar="…", help=text.replace("%", "%%")
        )
    return {
        name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None
    }


def _in_file(path: str) -> dict[str, str]:
    if not Path(path).is_file():
        raise BadRequest("bad_settings", f"the settings file {path} is not there")
    try:
        values = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as exc:
        raise BadRequest("bad_settings", f"the settings file {path} cannot be read: {exc}") from exc
    return {name: value or "" for name, value in values.items()}


def _unknown(cls: type[SharedSettings], names: Mapping[str, str], where: str) -> list[str]:
    known = [PREFIX + name.upper() for name in cls.model_fields]
    complaints = []
    for name in names:
        if not name.startswith(PREFIX) or name in known or name in OF_CLIENTS:
            continue
        if name.startswith(NOT_OURS):
            continue
        near = difflib.get_close_matches(
            name.removeprefix(PREFIX),
            [each.removeprefix(PREFIX) for each in known],
            n=1,
            cutoff=0.7,
        )
        hint = f"did you mean {PREFIX}{near[0]}?" if near else f"known are {', '.join(known)}"
        complaints.append(f"{name} (in {where}) is no setting: {hint}")
    return complaints


def _explained(
    cls: type[SharedSettings],
    exc: ValidationError,
    flags: Mapping[str, str],
    in_file: Mapping[str, str],
) -> list[str]:
    lines = []
    for error in exc.errors():
        if not error["loc"]:
            lines.append(error["msg"].removeprefix("Value error, "))
            continue
        name = str(error["loc"][0])
        variable = PREFIX + name.upper()
        if name in flags:
            given, said = flags[name], "--" + name.replace("_", "-")
        elif variable in os.environ:
            given, said = os.environ[variable], variable
        else:
            given, said = in_file.get(variable, str(error["input"])), variable
        why = f": {error['msg']}" if error["type"] == "gone" else ""
        lines.append(
            f"{said}={hide_password(given)!r} is not allowed{why}; allowed: {_allowed(cls, name)}"
        )
    return lines
