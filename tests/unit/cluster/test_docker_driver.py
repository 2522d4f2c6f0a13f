"""An observer in a container is like a node of the project, or there is none."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.autoscaler.docker_driver import DockerDriver
from cluster.autoscaler.driver import NotReady


class Engine:
    """As much of an engine's client as DockerDriver asks: the nodes and the networks that they are
    on.
    """

    def __init__(self, networks: dict[str, dict[str, Any]]) -> None:
        self.networks = networks
        self.store = "postgresql://acordo@postgres/acordo"
        self.made: list[dict[str, Any]] = []
        self.removed: list[str] = []
        self.starts = True
        self.containers = self.api = self

    def list(self, *, filters: dict[str, list[str]], **_: Any) -> list[Any]:
        service = filters["label"][-1].rpartition("=")[2]
        if service not in self.networks:
            return []
        attrs = {
            "Config": {
                "Image": "acordo-node:local",
                "Env": [
                    f"ACORDO_NODE_ID={service}",
                    "ACORDO_CLUSTER_ID=c",
                    f"ACORDO_STORE={self.store}",
                ],
            },
            "HostConfig": {"Memory": 1},
            "NetworkSettings": {"Networks": self.networks[service]},
            "Mounts": [],
        }
        return [SimpleNamespace(attrs=attrs)]

    def create_host_config(self, **given: Any) -> dict[str, Any]:
        return given

    def create_endpoint_config(self, **given: Any) -> dict[str, Any]:
        return given

    def create_networking_config(self, given: dict[str, Any]) -> dict[str, Any]:
        return given

    def create_container(self, image: str, **given: Any) -> dict[str, str]:
        self.made.append(given)
        return {"Id": "1"}

    def start(self, name: str) -> None:
        assert self.made
        if not self.starts:
            raise OSError("network acordo_default not found")

    def remove_container(self, name: str, **_: Any) -> None:
        self.removed.append(name)


def docker_driver(
    monkeypatch: pytest.MonkeyPatch, networks: dict[str, dict[str, Any]]
) -> tuple[DockerDriver, Engine]:
    engine = Engine(networks)
    monkeypatch.setattr("docker.from_env", lambda **_: engine)
    return DockerDriver("acordo"), engine


@pytest.mark.timeout(60)
async def test_an_observer_is_made_like_a_node_that_is_on_a_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, engine = docker_driver(monkeypatch, {"node1": {}, "node2": {"acordo_default": {}}})
    assert await driver.start("o0123456789", "n1=node1:9001") == (
        "o0123456789:9001",
        "http://o0123456789:8000",
    )
    (made,) = engine.made
    assert set(made["networking_config"]) == {"acordo_default"}
    assert made["environment"]["ACORDO_NODE_ID"] == "o0123456789"


@pytest.mark.timeout(60)
async def test_an_observer_that_keeps_a_copy_of_everything_keeps_it_on_a_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, engine = docker_driver(monkeypatch, {"node1": {"acordo_default": {}}})
    await driver.start("o1", "n1=node1:9001")
    engine.store = "replicated"
    await driver.start("o2", "n1=node1:9001")
    shared, replicated = (made["host_config"] for made in engine.made)
    assert "/data" in shared["tmpfs"] and "/data" not in replicated["tmpfs"]
    assert [m["Target"] for m in replicated["mounts"]] == ["/data"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("networks", [{}, {"node1": {}, "node2": {}, "node3": {}}])
async def test_with_no_node_to_be_made_like_the_round_fails_and_does_not_hang(
    monkeypatch: pytest.MonkeyPatch, networks: dict[str, dict[str, Any]]
) -> None:
    driver, engine = docker_driver(monkeypatch, networks)
    with pytest.raises(NotReady):
        async with asyncio.timeout(30):
            await driver.start("o0123456789", "n1=node1:9001")
    assert engine.made == []


@pytest.mark.timeout(60)
async def test_an_observer_that_the_engine_does_not_start_leaves_no_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, engine = docker_driver(monkeypatch, {"node1": {"acordo_default": {}}})
    engine.starts = False
    with pytest.raises(OSError, match="not found"):
        await driver.start("o0123456789", "n1=node1:9001")
    assert len(engine.made) == 1 and engine.removed == ["1"]
