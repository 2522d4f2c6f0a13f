# Made by `make sync` from acordo/_access_calls.py; do not edit.
"""Manage who may do what: tokens, roles, and the switch. Only an admin may."""

from __future__ import annotations

from collections.abc import Sequence

from acordo import _results as results
from acordo._sync._base_client import BaseClient
from acordo._wire import access, answers, requests


class AccessCalls(BaseClient):
    """A client with the calls about access.

    Changes raise NotApplied (retry freely), OutcomeUnknown (look with `tokens` or `roles`) and
    BadRequest: "no_admin" where no valid token of an admin would remain, "access_changed" where
    another change came first, "not_allowed" and "not_signed_in".
    """

    def access(self, *, timeout_s: float | None = None) -> results.AccessState:
        """Return whether access is controlled, and as whom this client asks."""
        request = requests.plain_get("/v1/access")
        return self._call(request, access.parse_state, timeout_s)

    def control_access(self, *, on: bool, timeout_s: float | None = None) -> results.AccessState:
        """Control access from now on, or let everybody do everything."""
        request = requests.access_switch_request(on=on)
        return self._call(request, access.parse_state, timeout_s)

    def create_token(
        self,
        principal: str,
        roles: Sequence[str],
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> results.AccessToken:
        """Create a token, and return it with what its bearer sends, which nobody is told again."""
        request = requests.token_request(principal, roles, ttl_s)
        return self._call(request, access.parse_token, timeout_s)

    def tokens(self, *, timeout_s: float | None = None) -> tuple[results.AccessToken, ...]:
        """Return all tokens, without what their bearers send."""
        request = requests.plain_get("/v1/access/tokens")
        return self._call(request, access.parse_tokens, timeout_s)

    def revoke_token(self, token: str, *, timeout_s: float | None = None) -> None:
        """Revoke a token by its id."""
        request = requests.access_removal_request("tokens", token)
        self._call(request, answers.served, timeout_s)

    def set_role(self, role: results.AccessRole, *, timeout_s: float | None = None) -> None:
        """Set a role."""
        self._call(requests.role_request(role), answers.served, timeout_s)

    def roles(self, *, timeout_s: float | None = None) -> tuple[results.AccessRole, ...]:
        """Return all roles."""
        request = requests.plain_get("/v1/access/roles")
        return self._call(request, access.parse_roles, timeout_s)

    def delete_role(self, name: str, *, timeout_s: float | None = None) -> None:
        """Delete a role: who has it loses what it allows."""
        request = requests.access_removal_request("roles", name)
        self._call(request, answers.served, timeout_s)

    def bind_certificate(
        self, name: str, roles: Sequence[str], *, timeout_s: float | None = None
    ) -> None:
        """Give roles to those whose TLS certificate has a name; without roles, take them away."""
        request = requests.certificate_request(name, roles)
        if not roles:
            request = requests.access_removal_request("certificates", name)
        self._call(request, answers.served, timeout_s)

    def certificates(
        self, *, timeout_s: float | None = None
    ) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return the names of certificates, each with the names of its roles."""
        request = requests.plain_get("/v1/access/certificates")
        return self._call(request, access.parse_certificates, timeout_s)
