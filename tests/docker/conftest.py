"""One engine and one stack for all tests of the containers.

Where these tests are asked for by name, as `make test-stack` does, an engine is installed and
started when none answers, and what is skipped has failed: such a run never passes by skipping. As a
part of all tests they use an engine that answers, and are skipped with the reason where none does;
nothing is installed then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import images
from tests.asked import asked_for, fail_what_is_skipped
from tests.docker.engine import NoEngine, Stack, engine

HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Turn every skip into a failure where these tests were asked for by name."""
    report = yield
    fail_what_is_skipped(report, item, HERE)
    return report


@pytest.fixture(scope="session")
def docker_url(pytestconfig: pytest.Config) -> Iterator[str]:
    try:
        with engine(start=asked_for(pytestconfig, HERE)) as url:
            yield url
    except NoEngine as exc:
        pytest.skip(f"no containers here: {exc}")


@pytest.fixture(scope="session")
def built(docker_url: str) -> str:
    """The URL of an engine that has every image."""
    try:
        images.build(list(images.IMAGES))
    except images.CannotBuild as exc:
        pytest.skip(f"images cannot be built here: {exc}")
    return docker_url


@pytest.fixture(scope="session")
def stack(built: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack, up and checked by ./start.sh."""
    made = Stack(built, Path(tmp_path_factory.mktemp("stack")))
    try:
        made.start(images.names())
        yield made
    finally:
        made.down()
