"""Give every test of a session the same private servers, started when first asked for.

What a test gets in them is its own: an empty database, an empty cache, an exchange that only it
listens to. A test that hurts a server starts one of its own instead.
"""

from __future__ import annotations

import atexit
import functools
import itertools
from typing import TypeVar

import pytest

from cluster.services.install import Missing, ensure, skipping
from cluster.services.postgres import PostgresServer
from cluster.services.process import Service
from cluster.services.rabbitmq import RabbitServer
from cluster.services.redis import RedisServer

_S = TypeVar("_S", bound=Service)
_numbers = itertools.count(1)


def needs(*services: str) -> None:
    """Make sure that services can be started; skip the test, by name, when they are to be
    left out.
    """
    try:
        ensure(*services)
    except Missing as missing:
        if skipping():
            pytest.skip(str(missing))
        pytest.fail(str(missing), pytrace=False)


def _started(server: _S) -> _S:
    server.start()
    atexit.register(server.__exit__)
    return server


@functools.cache
def postgres() -> PostgresServer:
    needs("postgresql")
    return _started(PostgresServer())


@functools.cache
def redis() -> RedisServer:
    needs("redis")
    return _started(RedisServer())


@functools.cache
def rabbitmq() -> RabbitServer:
    needs("rabbitmq")
    return _started(RabbitServer())


def fresh_database() -> str:
    """Return the URL of an empty PostgreSQL database."""
    return postgres().fresh_database(f"acordo_{next(_numbers)}")


def empty_redis() -> str:
    """Return the URL of a Redis that holds nothing."""
    redis().cli("FLUSHALL")
    return redis().url
