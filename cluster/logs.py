"""Configure logging: one event per line, a constant message, fields apart from it.

Lines are JSON, or coloured text on a terminal. Lines of libraries that use the standard library's
logging take the same form.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final, Literal, TextIO

import structlog

LIBRARY_LEVEL: Final = logging.WARNING
"""Least severe level that is shown from libraries."""


def configure(
    form: Literal["auto", "json", "console"],
    level: str,
    *,
    out: TextIO | None = None,
    **fields: str,
) -> None:
    """Send every log line to `out` (default: standard error), each with `fields`.

    Call it once, in a composition root.
    """
    out = out or sys.stderr
    as_json = form == "json" or (form == "auto" and not out.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if as_json else _unchanged,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    lines = logging.StreamHandler(out)
    lines.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _with(fields),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [lines]
    root.setLevel(LIBRARY_LEVEL)
    logging.getLogger("acordo").setLevel(level.upper())


def _unchanged(logger: Any, name: str, event: Any) -> Any:
    return event


def _with(fields: dict[str, str]) -> Any:
    def add(logger: Any, name: str, event: Any) -> Any:
        return {**event, **fields}

    return add
