"""Log lines have one form, whoever wrote them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from cluster.logs import configure


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("acordo")
    handlers, level, own_level = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(own_level)
    structlog.reset_defaults()


def test_json_lines_carry_fields_and_the_node() -> None:
    out = io.StringIO()
    configure("json", "info", out=out, node="n1")
    structlog.get_logger("acordo.test").info("something_happened", revision=7, key=b"\xff")
    structlog.get_logger("acordo.test").debug("too_little")
    logging.getLogger("elsewhere").warning("it said %s", "this")
    logging.getLogger("elsewhere").info("chatter")
    ours, theirs = (json.loads(line) for line in out.getvalue().splitlines())
    assert (ours["event"], ours["revision"], ours["node"], ours["logger"]) == (
        "something_happened",
        7,
        "n1",
        "acordo.test",
    )
    assert (theirs["event"], theirs["level"], theirs["node"]) == ("it said this", "warning", "n1")


def test_an_exception_stays_on_one_line() -> None:
    out = io.StringIO()
    configure("auto", "error", out=out)
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger("acordo.test").exception("it_died")
    (line,) = out.getvalue().splitlines()
    assert "ValueError: why" in json.loads(line)["exception"]
