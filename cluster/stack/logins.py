"""Make the logins of the file of settings true in what runs. No password comes onto a command line."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from cluster.stack.engine import Done, Engine, StackFailed
from cluster.stack.settings import StackSettings

AGAIN_S: Final = 2.0


def make_rabbit_login_true(engine: Engine, settings: StackSettings, wait_s: float, say: Callable[[str], None]) -> None:
    """Set it: RabbitMQ takes its first user from the environment only while its volume is empty. Raises StackFailed."""
    user = settings.get("ACORDO_RABBITMQ_USER", "admin")
    password = settings.get("ACORDO_RABBITMQ_PASSWORD", "admin")
    ends = time.monotonic() + wait_s
    while not (said := _set_login(engine, user, password)).ok:
        if time.monotonic() >= ends:
            raise StackFailed(
                f"RabbitMQ did not take the login of {settings.path} within {wait_s:g} s; it said: {said.last(3)}"
            )
        time.sleep(AGAIN_S)
    if user != "admin" and _rabbit(engine, "authenticate_user", "admin", given="admin").ok:
        command = " ".join(engine.command)
        say(f"warning: RabbitMQ still lets admin/admin in: {command} exec rabbit1 rabbitmqctl delete_user admin")


def make_grafana_password_true(engine: Engine, settings: StackSettings) -> None:
    """Set it where the file names one; else one that was set in its pages stays. Raises StackFailed."""
    password = settings.get("ACORDO_GRAFANA_PASSWORD")
    if "grafana" not in settings.profiles or not password:
        return
    reset = ("grafana", "cli", "admin", "reset-admin-password", "--password-from-stdin")
    said = engine.compose("exec", "-T", "grafana", *reset, given=password)
    if not said.ok:
        raise StackFailed(f"Grafana did not take ACORDO_GRAFANA_PASSWORD; it said: {said.last(3)}")


def _rabbit(engine: Engine, *arguments: str, given: str = "") -> Done:
    return engine.compose("exec", "-T", "rabbit1", "rabbitmqctl", *arguments, given=given)


def _set_login(engine: Engine, user: str, password: str) -> Done:
    started = _rabbit(engine, "await_startup")
    if not started.ok:
        return started
    for command in ("authenticate_user", "add_user", "change_password"):
        done = _rabbit(engine, command, user, given=password)
        if done.ok:
            break
    else:
        return done
    allowed = _rabbit(engine, "set_permissions", "-p", "/", user, ".*", ".*", ".*")
    return _rabbit(engine, "set_user_tags", user, "administrator") if allowed.ok else allowed
