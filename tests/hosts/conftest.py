"""Hosts in namespaces; where none can be made, what needs them is skipped with the reason.

Where these tests are asked for by name, as `make test-hosts` does, what is skipped has failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.asked import fail_what_is_skipped
from tests.hosts.network import Network, NoHosts, network

HERE: Final = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Turn every skip into a failure where these tests were asked for by name."""
    report = yield
    fail_what_is_skipped(report, item, HERE)
    return report


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Network]:
    """An empty network, which is gone afterwards with every host that was made in it."""
    try:
        with network(tmp_path / "hosts") as made:
            yield made
    except NoHosts as exc:
        pytest.skip(f"no hosts here: {exc}")
