"""Settings of a program, read from keys of a cluster: a source for pydantic-settings.

    class Settings(BaseSettings):
        colour: str = "blue"
        database: Database  # a model: its fields are keys below `app/database/`

        @classmethod
        def settings_customise_sources(cls, settings_cls, env_settings, **others):
            return env_settings, AcordoSettingsSource(settings_cls, client, "app/")

All keys are read as of one revision, once, when the settings are made; read again by making them
again. Needs the extra `settings`.
"""

from __future__ import annotations

from typing import Any, get_args

from acordo._extras import require

require("settings", "acordo.settings")

from pydantic.fields import FieldInfo  # noqa: E402 - what is missing is said by name first
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource  # noqa: E402

from acordo._errors import BadRequest  # noqa: E402
from acordo._intents import Bytes, as_bytes  # noqa: E402
from acordo._sync._client import SyncClient  # noqa: E402

__all__ = ["AcordoSettingsSource"]


class AcordoSettingsSource(PydanticBaseSettingsSource):
    """The values of a settings class under a prefix of a cluster.

    A field is the key `PREFIX` + its name (or alias); one that is a model may also be spread over
    the keys below it, by `separator`. Lists, dictionaries and models under one key are JSON. What
    has no key is left to other sources and to defaults. Raises what `SyncClient.list` raises, and
    BadRequest for a value that is not UTF-8.
    """

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        client: SyncClient,
        prefix: Bytes,
        *,
        separator: str = "/",
    ) -> None:
        super().__init__(settings_cls)
        self._client, self._prefix = client, as_bytes(prefix, "prefix")
        self._separator = separator
        self._found: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"AcordoSettingsSource(prefix={self._prefix!r})"

    def __call__(self) -> dict[str, Any]:
        """Read the keys, and return the values of the fields that have one."""
        self._found = self._read()
        values: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, is_complex = self.get_field_value(field, name)
            if value is not None:
                values[key] = self.prepare_field_value(name, field, value, is_complex)
        return values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of a field (None: it has no key), the name that the settings take it by,
        and whether it is JSON.
        """
        name = field.validation_alias if isinstance(field.validation_alias, str) else field_name
        value = self._found.get(name)
        parts = (FieldInfo(annotation=part) for part in get_args(field.annotation))
        is_complex = self.field_is_complex(field) or any(map(self.field_is_complex, parts))
        return value, name, isinstance(value, str) and is_complex

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        """Return a value, decoded if it is JSON. Raises ValueError."""
        if not value_is_complex:
            return value
        try:
            return self.decode_complex_value(field_name, field, value)
        except ValueError:
            if self.field_is_complex(field):
                raise
            return value  # of a union, which may have a part that is text

    def _read(self) -> dict[str, Any]:
        """Return the values under the prefix; those of keys below another are in a dictionary."""
        found: dict[str, Any] = {}
        for each in self._client.list(self._prefix):
            try:
                name, value = each.key[len(self._prefix) :].decode(), each.value.decode()
            except UnicodeDecodeError as exc:
                raise BadRequest(
                    f"{each.key!r} is no setting", code="not_utf8", allowed="text in UTF-8"
                ) from exc
            *path, last = name.split(self._separator)
            place = found
            for part in path:
                below = place.get(part)
                if not isinstance(below, dict):  # a key that is both: what is below it counts
                    below = place[part] = {}
                place = below
            place[last] = value
        return found
