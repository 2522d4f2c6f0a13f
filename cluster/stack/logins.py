"""Apply the logins in the file of settings to the running services.

No password is passed on a command line.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Final

from cluster.stack.engine import Done, Engine, StackFailed
from cluster.stack.env_file import StackSettings

AGAIN_S: Final = 2.0
BROKERS: Final = ("rabbit1", "rabbit2", "rabbit3")
STARTS_WITHIN_S: Final = 15
"""Longest wait for one broker to start before the next one is tried."""


def make_rabbit_login_true(
    engine: Engine, settings: StackSettings, wait_s: float, say: Callable[[str], None]
) -> None:
    """Set RabbitMQ's login to that of the settings.

    This is needed because RabbitMQ takes its first user from the environment only while its volume
    is empty. Raises StackFailed if no broker accepts the login within `wait_s`.
    """
    user = settings.get("ACORDO_RABBITMQ_USER", "admin")
    password = settings.get("ACORDO_RABBITMQ_PASSWORD", "admin")
    ends = time.monotonic() + wait_s
    said = Done(1, "", "")
    for turn in itertools.count():
        # A login belongs to the whole cluster, so any broker that is up can set it.
        service = BROKERS[turn % len(BROKERS)]
        now = _set_login(engine, service, user, password)
        if now.ok:
            break
        said = said if said.err or said.out else now
        if time.monotonic() >= ends and turn >= len(BROKERS) - 1:
            raise StackFailed(
                f"RabbitMQ did not take the login of {settings.path} within {wait_s:g} s; it said: "
                f"{said.last(3)}"
            )
        if service == BROKERS[-1]:
            time.sleep(AGAIN_S)
    if user != "admin" and _rabbit(engine, service, "authenticate_user", "admin", given="admin").ok:
        command = " ".join(engine.command)
        say(
            f"warning: RabbitMQ still lets admin/admin in: {command} exec {service} rabbitmqctl "
            "delete_user admin"
        )


def make_grafana_password_true(engine: Engine, settings: StackSettings) -> None:
    """Set Grafana's password if the file gives one; else keep one that was set in Grafana's pages.

    Raises StackFailed.
    """
    password = settings.get("ACORDO_GRAFANA_PASSWORD")
    if "grafana" not in settings.profiles or not password:
        return
    reset = ("grafana", "cli", "admin", "reset-admin-password", "--password-from-stdin")
    said = engine.compose("exec", "-T", "grafana", *reset, given=password)
    if not said.ok:
        raise StackFailed(f"Grafana did not take ACORDO_GRAFANA_PASSWORD; it said: {said.last(3)}")


def _rabbit(engine: Engine, service: str, *arguments: str, given: str = "") -> Done:
    return engine.compose("exec", "-T", service, "rabbitmqctl", *arguments, given=given)


def _set_login(engine: Engine, service: str, user: str, password: str) -> Done:
    started = _rabbit(engine, service, "await_startup", "--timeout", str(STARTS_WITHIN_S))
    if not started.ok:
        return started
    for command in ("authenticate_user", "add_user", "change_password"):
        done = _rabbit(engine, service, command, user, given=password)
        if done.ok:
            break
    else:
        return done
    allowed = _rabbit(engine, service, "set_permissions", "-p", "/", user, ".*", ".*", ".*")
    return (
        _rabbit(engine, service, "set_user_tags", user, "administrator") if allowed.ok else allowed
    )
