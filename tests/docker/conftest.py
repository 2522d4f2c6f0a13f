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
from tests.docker.engine import NoEngine, Stack, engine

HERE = Path(__file__).parent


def required(config: pytest.Config) -> bool:
    """Say whether these tests were asked for by name."""
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        return False
    paths = (config.invocation_params.dir / arg.partition("::")[0] for arg in config.args)
    return any(path.resolve().is_relative_to(HERE) for path in paths)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Turn every skip into a failure where these tests were asked for by name."""
    report = yield
    if report.skipped and required(item.config):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = (
            "failed",
            f"{item.nodeid} was asked for and cannot be run: {reason}",
        )
    return report


@pytest.fixture(scope="session")
def docker_url(pytestconfig: pytest.Config) -> Iterator[str]:
    try:
        with engine(start=required(pytestconfig)) as url:
            yield url
    except NoEngine as exc:
        pytest.skip(f"no containers here: {exc}")


@pytest.fixture(scope="session")
def stack(docker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack, up and checked by ./start.sh."""
    try:
        images.build(list(images.IMAGES))
    except images.CannotBuild as exc:
        pytest.skip(f"images cannot be built here: {exc}")
    made = Stack(docker_url, Path(tmp_path_factory.mktemp("stack")))
    try:
        made.start(images.names())
        yield made
    finally:
        made.down()
