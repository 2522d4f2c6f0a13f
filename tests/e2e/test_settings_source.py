"""Settings of a program from keys of a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from acordo import BadRequest, SyncClient
from acordo.settings import AcordoSettingsSource


class Database(BaseModel):
    host: str
    port: int = 5432


def settings_of(client: SyncClient, prefix: str) -> Any:
    class Settings(BaseSettings):
        colour: str = "blue"
        workers: int = 1
        hosts: list[str] = []
        database: Database | None = None
        named: str = Field(default="", validation_alias="other-name")

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, AcordoSettingsSource(settings_cls, client, prefix)

    return Settings


def test_fields_are_keys(acordo_sync: SyncClient, acordo_prefix: str) -> None:
    make = settings_of(acordo_sync, acordo_prefix)
    assert make().colour == "blue"
    for name, value in {
        "workers": "7",
        "hosts": '["a", "b"]',
        "database/host": "db",
        "database/port": "6000",
        "other-name": "x",
        "no-field": "y",
    }.items():
        acordo_sync.put(acordo_prefix + name, value)
    made = make(colour="red")
    assert (made.colour, made.workers, made.hosts, made.named) == ("red", 7, ["a", "b"], "x")
    assert made.database == Database(host="db", port=6000)
    acordo_sync.put(acordo_prefix + "database", '{"host": "whole"}')
    acordo_sync.delete(acordo_prefix + "database/host")
    acordo_sync.delete(acordo_prefix + "database/port")
    assert make().database == Database(host="whole")


def test_what_is_no_setting_is_named(acordo_sync: SyncClient, acordo_prefix: str) -> None:
    acordo_sync.put(acordo_prefix + "colour", b"\xff")
    with pytest.raises(BadRequest, match="colour"):
        settings_of(acordo_sync, acordo_prefix)()
    acordo_sync.put(acordo_prefix + "colour", "red")
    acordo_sync.put(acordo_prefix + "workers", "many")
    with pytest.raises(ValidationError, match="workers"):
        settings_of(acordo_sync, acordo_prefix)()
