"""Say in the OpenAPI document how clients sign in, and what each operation needs of them."""

from __future__ import annotations

from typing import Any, Final

from node.access.access import Need
from node.http.cookies import PLAIN_NAME, SECURE_NAME

SCHEMES: Final[dict[str, dict[str, str]]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "acordo_<id>_<secret>",
        "description": "A token of /v1/access/tokens.",
    },
    "mutualTLS": {
        "type": "mutualTLS",
        "description": "A client's certificate whose name has roles.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SECURE_NAME,
        "description": (
            f"A session of /v1/session, for the web page alone ({PLAIN_NAME} without HTTPS)."
        ),
    },
}
OPEN: Final = frozenset({"/health", "/livez", "/readyz", "/openapi.json"})
"""Paths that ask for no credentials."""
_NEEDS: Final[dict[Need, frozenset[str]]] = {
    Need.NOTHING: OPEN,
    Need.METRICS: frozenset({"/metrics"}),
    Need.SIGNED_IN: frozenset(
        {
            "/v1/leader",
            "/v1/cluster",
            "/v1/activity",
            "/v1/access",
            "/v1/session",
            "/v1/webhooks",
            "/v1/webhooks/{name}",
        }
    ),
    Need.KEYS: frozenset(
        {
            "/kv",
            "/v1/kv",
            "/v1/kv/{key}",
            "/v1/history/{key}",
            "/v1/txn",
            "/v1/batch",
            "/v1/async",
            "/v1/watch",
            "/v1/leases",
            "/v1/leases/{id}",
            "/v1/leases/{id}/keep-alive",
            "/v1/keep-alive",
            "/v1/operations/{op_id}",
        }
    ),
}
"""Paths by what they need; all others are the admins'."""
_TEXTS: Final = {
    Need.SIGNED_IN: "any principal but `anonymous`",
    Need.KEYS: "rights to the keys that it names",
    Need.METRICS: "the role `metrics`",
    Need.ADMIN: "the role `admin`",
}


def need_of(path: str) -> Need:
    """Return what the operations of a path need, as the document says."""
    return next((need for need, paths in _NEEDS.items() if path in paths), Need.ADMIN)


def security_of(path: str) -> dict[str, Any]:
    """Return the members of an operation that say what it needs, while access is controlled."""
    need = need_of(path)
    if need is Need.NOTHING:
        return {"security": []}
    ways: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]
    if need in (Need.KEYS, Need.METRICS):
        ways.append({})  # nobody in particular, as far as the role `anonymous` goes
    return {"security": ways, "x-acordo-needs": _TEXTS[need]}
