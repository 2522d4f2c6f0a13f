"""Manage the process: its file descriptors, its port, its signals, and its exit code.

The exit code tells the supervisor what to do (docs/adr/0003).
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from typing import Final

import structlog

from cluster.settings.loading import redacted
from cluster.settings.node import NodeSettings
from kv.errors import BackendUnavailable, BadRequest

EX_UNAVAILABLE: Final = 69
EX_SOFTWARE: Final = 70
EX_CONFIG: Final = 78
DESCRIPTORS_MAX: Final = 1 << 20
"""Upper bound on the file descriptors asked for."""
GARBAGE_THRESHOLDS: Final = (20_000, 20, 20)
"""How many new objects there are before the collector looks at the young ones, and so on. What a
request makes is freed by counting references; with Python's own 700 it looks at live objects only.
"""
SWITCH_INTERVAL_S: Final = 0.0005
"""How long the loop may keep the interpreter's lock from a thread that waits for it, for example
with the news that a sync has ended. Python's own is 5 ms, as long as a whole write.
"""

_log = structlog.get_logger("acordo.node")


def tune_interpreter() -> None:
    """Spare the collector what the start made, and set the interpreter's intervals."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def raise_descriptors() -> int:
    """Raise the process's limit on open file descriptors as far as allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return DESCRIPTORS_MAX if soft == resource.RLIM_INFINITY else soft


def take_port(host: str, port: int) -> socket.socket:
    """Bind the HTTP port before anything else is done. Raises BadRequest("port_in_use" |
    "bad_address").
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(found[0], found[1])
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        # Two processes may bind the same address with SO_REUSEADDR; the second one fails only here.
        listening.listen(1024)
    except OSError as exc:
        code = "port_in_use" if isinstance(exc, OSError) and exc.errno == 98 else "bad_address"
        detail = f"HTTP cannot listen on {host}:{port}: {exc.strerror or exc}"
        raise BadRequest(code, detail, allowed="a free port on an address of this machine") from exc
    listening.setblocking(False)
    return listening


def stop_on_signals(settings: NodeSettings, stop: asyncio.Future[bool]) -> None:
    """Begin the drain on a signal or at the end of standard input; a second signal ends the process
    at once.

    The result of `stop` says whether to hand on the leadership. SIGTERM means that only this node
    stops, so it does. SIGINT (Ctrl-C) and the end of standard input (the runner is gone) mean that
    all nodes stop, and then nobody is left to take it.
    """
    loop = asyncio.get_running_loop()

    def begin_drain(hand_on: bool) -> None:
        if stop.done():
            os._exit(1)
        stop.set_result(hand_on)

    loop.add_signal_handler(signal.SIGTERM, begin_drain, True)
    loop.add_signal_handler(signal.SIGINT, begin_drain, False)
    if settings.stop_with_stdin:

        def readable() -> None:
            if not os.read(0, 4096):
                loop.remove_reader(0)
                if not stop.done():
                    stop.set_result(False)

        loop.add_reader(0, readable)


def exit_code_of(exc: BaseException, settings: NodeSettings) -> int:
    """Report what ended the process in the last log line, and return the exit code for the
    supervisor.
    """
    first = exc
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, BadRequest):
        return refuse_to_start(first)
    if isinstance(first, BackendUnavailable):
        shown = redacted(settings)
        where = ", ".join(
            f"{name}={shown[name]}" for name in ("ACORDO_STORE", "ACORDO_CACHE", "ACORDO_BROADCAST")
        )
        print(f"error: {first} ({where})", file=sys.stderr)
        return EX_UNAVAILABLE
    _log.critical("a background loop died", error=repr(first), exc_info=exc)
    return EX_SOFTWARE


def refuse_to_start(exc: BadRequest) -> int:
    """Print what must be fixed before a node can start; return the exit code for that."""
    allowed = f" (allowed: {exc.allowed})" if exc.allowed else ""
    print(f"error: {exc.detail.replace(chr(10), '; ')}{allowed}", file=sys.stderr)
    return EX_CONFIG
