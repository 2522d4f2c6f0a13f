"""Describe the endpoints by which admins control access, and those of webhooks."""

from __future__ import annotations

from typing import Any, Final

from node.api.openapi.endpoints import Endpoint
from node.api.openapi.parameters import Parameter
from node.api.operating.sessions import SessionAnswer
from node.exchange.headers import JSON
from node.wire.access_forms import (
    AccessAnswer,
    BindingAnswer,
    BindingForm,
    BindingsAnswer,
    RoleAnswer,
    RoleForm,
    RolesAnswer,
    TokenAnswer,
    TokenForm,
    TokensAnswer,
)
from node.wire.requests import NothingForm
from node.wire.webhook_forms import (
    OwnerForm,
    SignedAnswer,
    SignForm,
    WebhookAnswer,
    WebhookForm,
    WebhooksAnswer,
)

_NAME: Final = {"type": "string", "minLength": 1, "maxLength": 64}
_BODY: Final = (400, 408, 413, 415, 409, 503, 504)
_GONE: Final = (400, 404, 409, 503, 504)


def _named(name: str, text: str) -> Parameter:
    return Parameter(name, "path", _NAME, text, True)


_WEBHOOK: Final = _named("name", "Name of a webhook.")


def _removal(summary: str, name: str, text: str) -> Endpoint:
    answer: dict[int, tuple[str, str, Any]] = {200: ("It is gone.", JSON, dict[str, Any])}
    return Endpoint(summary, answer, _GONE, (_named(name, text),))


CONTROL: Final[dict[tuple[str, str], Endpoint]] = {
    ("/v1/access", "GET"): Endpoint(
        "Whether access is controlled, and who asks.",
        {200: ("How it is.", JSON, AccessAnswer)},
        (400,),
    ),
    ("/v1/access/enable", "POST"): Endpoint(
        "Control access from now on; a valid token of an admin has to be there.",
        {200: ("It is controlled.", JSON, AccessAnswer)},
        _BODY,
        (),
        NothingForm,
        False,
    ),
    ("/v1/access/disable", "POST"): Endpoint(
        "Let everybody do everything.",
        {200: ("It is not controlled.", JSON, AccessAnswer)},
        _BODY,
        (),
        NothingForm,
        False,
    ),
    ("/v1/access/tokens", "GET"): Endpoint(
        "List the tokens, without what their bearers send.",
        {200: ("All of them.", JSON, TokensAnswer)},
        (400,),
    ),
    ("/v1/access/tokens", "POST"): Endpoint(
        "Create a token; what its bearer sends is told this once.",
        {201: ("Created.", JSON, TokenAnswer)},
        _BODY,
        (),
        TokenForm,
    ),
    ("/v1/access/tokens/{id}", "DELETE"): _removal("Revoke a token.", "id", "Id of a token."),
    ("/v1/access/roles", "GET"): Endpoint(
        "List the roles.", {200: ("All of them.", JSON, RolesAnswer)}, (400,)
    ),
    ("/v1/access/roles/{name}", "PUT"): Endpoint(
        "Set a role.",
        {200: ("Set.", JSON, RoleAnswer)},
        _BODY,
        (_named("name", "Name of a role."),),
        RoleForm,
    ),
    ("/v1/access/roles/{name}", "DELETE"): _removal("Delete a role.", "name", "Name of a role."),
    ("/v1/access/certificates", "GET"): Endpoint(
        "List the names of certificates that have roles.",
        {200: ("All of them.", JSON, BindingsAnswer)},
        (400,),
    ),
    ("/v1/access/certificates/{name}", "PUT"): Endpoint(
        "Give roles to those whose certificate has a name.",
        {200: ("Given.", JSON, BindingAnswer)},
        _BODY,
        (_named("name", "Name in a certificate."),),
        BindingForm,
    ),
    ("/v1/access/certificates/{name}", "DELETE"): _removal(
        "Take these roles away.", "name", "Name in a certificate."
    ),
    ("/v1/session", "POST"): Endpoint(
        "Sign a browser in with the token in Authorization: it keeps a cookie instead.",
        {201: ("Who is signed in; Set-Cookie.", JSON, SessionAnswer)},
        _BODY,
        (),
        NothingForm,
        False,
    ),
    ("/v1/session", "DELETE"): Endpoint(
        "Sign it out: the session in the cookie ends.",
        {200: ("It has ended.", JSON, dict[str, Any])},
        _BODY,
        (),
        NothingForm,
        False,
    ),
    ("/v1/webhooks", "GET"): Endpoint(
        "List the caller's webhooks; an admin sees all.",
        {200: ("They.", JSON, WebhooksAnswer)},
        (400,),
    ),
    ("/v1/webhooks", "POST"): Endpoint(
        "Send changes under a prefix to a URL from now on; the secret that signs them is told "
        "this once. What is sent is what the caller may read at that moment.",
        {201: ("Created.", JSON, WebhookAnswer)},
        _BODY,
        (),
        WebhookForm,
    ),
    ("/v1/webhooks/{name}", "GET"): Endpoint(
        "Show a webhook of the caller's.",
        {200: ("It is there.", JSON, WebhookAnswer)},
        (400, 404),
        (_WEBHOOK,),
    ),
    ("/v1/webhooks/{name}", "DELETE"): _removal(
        "End a webhook, and forget how far it was.", "name", "Name of a webhook."
    ),
    ("/v1/webhooks/{name}/owner", "PUT"): Endpoint(
        "Let a webhook be another principal's, whose rights count from then on.",
        {200: ("Given.", JSON, WebhookAnswer)},
        (*_BODY, 404),
        (_WEBHOOK,),
        OwnerForm,
    ),
    ("/v1/webhooks/{name}/sign", "POST"): Endpoint(
        "Sign a delivery, if the webhook's owner may be told it now: for workers.",
        {200: ("Signed, or that it may not be told.", JSON, SignedAnswer)},
        (400, 404, 408, 413, 415, 503),
        (_WEBHOOK,),
        SignForm,
    ),
}
