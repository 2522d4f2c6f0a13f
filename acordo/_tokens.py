"""Find the token that a client brings to nodes. It is never shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from acordo._errors import BadRequest

TOKEN_CHARS_MAX: Final = 1024


def client_token(
    token: str | None = None,
    *,
    file: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> str | None:
    """Return the token to send; None: there is none.

    `token`: the token, "" for none; else that in `file`, else ACORDO_TOKEN, else that in the file
    ACORDO_TOKEN_FILE. Raises BadRequest for a file that cannot be read, or what can be no token.
    """
    if token is None and file is None:
        token = environ.get("ACORDO_TOKEN") or None
        file = None if token else environ.get("ACORDO_TOKEN_FILE") or None
    if token is None and file is not None:
        try:
            token = Path(file).read_text(encoding="ascii")
        except (OSError, ValueError) as exc:
            raise BadRequest(
                f"{file}: {exc}", code="token_file", allowed="a file with a token"
            ) from (exc)
    token = (token or "").strip()
    if not token:
        return None
    if len(token) > TOKEN_CHARS_MAX or not token.isascii() or not token.isprintable():
        raise BadRequest("the token is none", code="bad_token", allowed="acordo_…, as it was shown")
    return token
