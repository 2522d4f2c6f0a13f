"""One engine and one stack for all tests of the containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import images
from tests.docker.engine import NoEngine, Stack, engine


@pytest.fixture(scope="session")
def docker_url() -> Iterator[str]:
    try:
        with engine() as url:
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
