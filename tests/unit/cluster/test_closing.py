"""A cluster that other machines reach stays closed, with a reason, where closing it takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.local import closing
from kv.errors import BadRequest


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "ACORDO", ("sh", "-c", "exec sleep 60"))
    monkeypatch.setattr(closing, "COMMAND_TIMEOUT_S", 0.05)


def test_certificates_that_take_too_long_are_a_reason() -> None:
    with pytest.raises(BadRequest, match="it took more than") as refused:
        closing._certificates("init", "x")
    assert refused.value.code == "no_certificates"


async def test_a_token_that_takes_too_long_is_a_reason_and_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="it took more than") as refused:
        await closing.control_access("https://127.0.0.1:1", tmp_path, print)
    assert refused.value.code == "access_open"
    assert not closing.admin_token(tmp_path).exists()
