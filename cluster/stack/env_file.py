"""Read and check the stack's file of settings. It starts nothing, and never shows a password.

Each rule exists once: a setting that a node or the autoscaler takes is checked by that program's
own rule.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import TypeAdapter, ValidationError

from cluster.settings.autoscaler import AutoscalerSettings
from cluster.settings.node import NodeSettings
from kv.errors import BadRequest

EXAMPLE: Final = Path(".env.example")
REPLICATED: Final = "replicated"
STORES: Final = (REPLICATED, "crdb-dev", "crdb3-dev", "postgres")
"""Profiles that say which store there is: each node's own copy, or a server. The CockroachDB ones
run without logins (`--insecure`), for development only.
"""
FORMER: Final = {"crdb": "crdb-dev", "crdb3": "crdb3-dev"}
PROFILES: Final = (*STORES, "grafana")
NODES: Final = ("node1", "node2", "node3")
PORTS: Final = {
    "HTTP": 80,
    "NODE1": 8001,
    "NODE2": 8002,
    "NODE3": 8003,
    "PROMETHEUS": 9091,
    "ALERTMANAGER": 9093,
    "RABBITMQ": 25673,
}
PORTS_OF: Final = {
    "crdb-dev": {"COCKROACH": 8080},
    "crdb3-dev": {"COCKROACH": 8080},
    "grafana": {"GRAFANA": 3000},
}
SECRETS: Final = ("ACORDO_POSTGRES_PASSWORD", "ACORDO_RABBITMQ_COOKIE", "ACORDO_REDIS_PASSWORD")
"""Settings whose values are generated once, at the first start."""
SENTINELS: Final = "sentinel1:26379,sentinel2:26379,sentinel3:26379"
COCKROACHES: Final = "cockroach1:26257,cockroach2:26257,cockroach3:26257"
AIR_IMAGES: Final = ("redis", "rabbitmq", "postgres", "prometheus", "alertmanager", "blackbox")

_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_HOST: Final = r"[A-Za-z0-9._-]+(:[0-9]{1,5})?"
_LOGIN: Final = r"[A-Za-z0-9._~%-]*(:[A-Za-z0-9._~%-]*)?@"
_STORE: Final = re.compile(
    rf"replicated|(postgresql|cockroachdb)://({_LOGIN})?{_HOST}(,{_HOST})*/[A-Za-z0-9_-]+(\?[A-Za-z0-9_.=&%/-]*)?"
)
_CACHE: Final = re.compile(
    rf"memory://|rediss?://({_LOGIN})?{_HOST}(/[0-9]*)?|redis\+sentinel://({_LOGIN})?{_HOST}(,{_HOST})*/[A-Za-z0-9._-]+"
)


@dataclass(frozen=True)
class StackSettings:
    """The settings in the file. Every other setting has the default of docker-compose.yml."""

    path: Path
    values: Mapping[str, str]

    def get(self, name: str, default: str = "") -> str:
        """Return a value, or `default` if it is missing or empty."""
        return self.values.get(name) or default

    @property
    def project(self) -> str:
        """Return the name of the Compose project."""
        return self.get("COMPOSE_PROJECT_NAME", "acordo")

    @property
    def profiles(self) -> frozenset[str]:
        """Return the enabled profiles."""
        return frozenset(filter(None, self.get("COMPOSE_PROFILES").split(",")))

    def ports(self) -> dict[str, int]:
        """Return every published port of this machine, by the name of its setting.

        Raises BadRequest if one is malformed.
        """
        wanted = PORTS | {
            name: port for p in self.profiles for name, port in PORTS_OF.get(p, {}).items()
        }
        for name in wanted:
            given = self.get(f"ACORDO_{name}_PORT")
            if given and (trouble := _port(f"ACORDO_{name}_PORT", given)):
                raise BadRequest("bad_settings", f"{self.path}: {trouble}")
        return {
            name: int(self.get(f"ACORDO_{name}_PORT", str(port))) for name, port in wanted.items()
        }

    def urls(self) -> list[str]:
        """Return the URLs of the nodes on this machine."""
        return [f"http://127.0.0.1:{self.ports()[node.upper()]}" for node in NODES]


def known(root: Path) -> list[str]:
    """Return the names of all settings, in the order of .env.example."""
    return re.findall(r"(?m)^#?([A-Z][A-Z0-9_]*)=", (root / EXAMPLE).read_text())


def read(path: Path) -> StackSettings:
    """Read a file of settings without checking its values. Raises BadRequest("bad_settings")."""
    values: dict[str, str] = {}
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise BadRequest("bad_settings", f"{path} cannot be read: {exc}") from exc
    for number, line in enumerate(text.split("\n"), 1):
        if line.endswith("\r"):
            raise BadRequest(
                "bad_settings", f"{path} line {number} ends as on Windows: sed -i 's/\\r$//' {path}"
            )
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise BadRequest("bad_settings", f"{path} line {number} is no NAME=value")
        values[name] = value
    return StackSettings(path, values)


def project_trouble(settings: StackSettings) -> str | None:
    """Return what is wrong with the name of the project, which every command needs, or None."""
    return _project("COMPOSE_PROJECT_NAME", settings.project)


def check(settings: StackSettings, names: Iterable[str]) -> None:
    """Raise BadRequest("bad_settings") if a setting is unknown, malformed or inconsistent."""
    known_names = set(names)
    for name, value in settings.values.items():
        if name not in known_names:
            raise _refused(settings, f"{name} is no setting; {EXAMPLE} has them all")
        if trouble := _trouble(name, value):
            raise _refused(settings, trouble)
    if trouble := _together(settings):
        raise _refused(settings, trouble)


def _refused(settings: StackSettings, why: str) -> BadRequest:
    return BadRequest("bad_settings", f"{settings.path}: {why}")


# --------------------------------------------------------------------------------------- one by one


def _port(name: str, value: str) -> str | None:
    fits = re.fullmatch(r"0*[1-9][0-9]{0,4}", value) and int(value) < 65536
    return None if fits else f"{name}={value} is no port (1 to 65535)"


def _word(name: str, value: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z0-9._][A-Za-z0-9._-]*", value):
        return f"{name} may have letters, digits and . _ - only (- not first)"
    if name == "ACORDO_GRAFANA_PASSWORD" and len(value) < 4:
        return f"{name} has fewer than 4 characters, which Grafana refuses"
    return None


def _image(name: str, value: str) -> str | None:
    fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", value)
    return None if fits else f"{name}={value} is no name of an image (no quotes, no spaces)"


def _matches(pattern: re.Pattern[str], allowed: str, name: str, value: str) -> str | None:
    """Check a value without showing it in the message, because it may hold a password."""
    return None if pattern.fullmatch(value) else f"{name} is malformed; allowed: {allowed}"


def _profiles(name: str, value: str) -> str | None:
    for each in filter(None, value.split(",")):
        if each in FORMER:
            return (
                f"profile {each} is called {FORMER[each]} now, for its store has no logins: name "
                f"that in {name}; its data stays"
            )
        if each not in PROFILES:
            return f"profile {each} is unknown; there are {', '.join(PROFILES)}"
    return None


def _project(name: str, value: str) -> str | None:
    return (
        None
        if re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value)
        else f"{name} may have small letters, digits and _ - only"
    )


def _gid(name: str, value: str) -> str | None:
    return None if re.fullmatch(r"[0-9]{1,9}", value) else f"{name}={value} is no whole number"


def _member(name: str, value: str) -> str | None:
    return (
        None
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value)
        else f"{name}={value} is no member's id"
    )


def _as_field(cls: Any, field: str, name: str, value: str) -> str | None:
    """Check a value by the rule of the program that takes it."""
    about = cls.model_fields[field]
    try:
        rule: Any = (
            Annotated[(about.annotation, *about.metadata)] if about.metadata else about.annotation
        )
        TypeAdapter[Any](rule).validate_strings(value)
    except ValidationError:
        return f"{name}={value} is not allowed: {about.json_schema_extra['allowed']}"
    return None


_CHECKS: Final[tuple[tuple[str, Callable[[str, str], str | None]], ...]] = (
    (r"ACORDO_\w+_PORT", _port),
    (r"ACORDO_\w+_(USER|PASSWORD|COOKIE)", _word),
    (r"ACORDO_IMAGE_\w+|ACORDO_BASE", _image),
    (r"ACORDO_DOCKER_GID", _gid),
    (r"ACORDO_NODE[123]_ID", _member),
    (r"ACORDO_NODE[123]_MEMBERS", partial(_as_field, NodeSettings, "members")),
    (
        r"ACORDO_STORE",
        partial(
            _matches,
            _STORE,
            "replicated, cockroachdb://USER@HOST[:PORT][,HOST]/DATABASE or "
            "postgresql://USER:PASSWORD@HOST[:PORT]/DATABASE",
        ),
    ),
    (
        r"ACORDO_CACHE",
        partial(
            _matches,
            _CACHE,
            "memory://, redis://[:PASSWORD@]HOST[:PORT][/DB] or "
            "redis+sentinel://[:PASSWORD@]HOST[,HOST]/MASTER",
        ),
    ),
    (r"COMPOSE_PROFILES", _profiles),
    (r"COMPOSE_PROJECT_NAME", _project),
)


def _trouble(name: str, value: str) -> str | None:
    """Return what is wrong with one value; None if nothing is."""
    for pattern, found in _CHECKS:
        if re.fullmatch(pattern, name):
            return found(name, value)
    field = name.removeprefix("ACORDO_").lower()
    for cls, each in (
        (NodeSettings, field),
        (AutoscalerSettings, field),
        (AutoscalerSettings, f"autoscaler_{field}"),
    ):
        if each in cls.model_fields:
            return _as_field(cls, each, name, value)
    return None


def _together(settings: StackSettings) -> str | None:
    """Return which settings are inconsistent with each other; None if none are."""
    stores = settings.profiles & set(STORES)
    if len(stores) > 1:
        return (
            f"COMPOSE_PROFILES has more than one store; {', '.join(STORES)} stand in for each other"
        )
    schemes = {REPLICATED: REPLICATED, "postgres": "postgresql"}
    fits = {schemes.get(store, "cockroachdb") for store in stores}
    if settings.get("ACORDO_STORE").partition("://")[0] not in fits:
        return f"COMPOSE_PROFILES and ACORDO_STORE do not fit together; {EXAMPLE} shows the pairs"
    password = settings.get("ACORDO_REDIS_PASSWORD", "acordo")
    cache = settings.get("ACORDO_CACHE", f"redis+sentinel://:acordo@{SENTINELS}/acordo")
    if SENTINELS in cache and f":{password}@" not in cache:
        return (
            "ACORDO_REDIS_PASSWORD and the password in ACORDO_CACHE do not fit together; "
            f"{EXAMPLE} shows both"
        )
    given = {
        each: settings.get(name)
        for name in settings.values
        for field in (name.removeprefix("ACORDO_").lower(),)
        for each in (field, f"autoscaler_{field}")
        if each.startswith("autoscaler_")
        and each in AutoscalerSettings.model_fields
        and settings.get(name)
    }
    try:
        AutoscalerSettings(**given)  # type: ignore[arg-type]  # strings: pydantic parses them
    except ValidationError as exc:
        return "; ".join(error["msg"].removeprefix("Value error, ") for error in exc.errors())
    taken: dict[int, str] = {}
    for name, port in settings.ports().items():
        if port in taken:
            return f"ACORDO_{taken[port]}_PORT and ACORDO_{name}_PORT are both {port}"
        taken[port] = name
    return None


# ----------------------------------------------------------------------------------------- the file


def store_of(wanted: str, *, air: bool) -> str:
    """Return the profile of the store to begin with: the one that is wanted, if any. Raises
    BadRequest if it is unknown.

    `air`: of servers, only PostgreSQL can be built from the distribution's packages.
    """
    usable = (REPLICATED, "postgres") if air else STORES
    if wanted and wanted not in usable:
        raise BadRequest(
            "bad_settings", f"STORE={wanted} cannot be started here", allowed=", ".join(usable)
        )
    return wanted or ("postgres" if air else "crdb-dev")


def first(root: Path, *, store: str, air: bool, socket: Path | None, http_port: str | None) -> str:
    """Return the text of the first file of settings, with the store of this profile.

    `air`: use images built from the distribution's packages; there is no Grafana then.
    """
    made = {name: secrets.token_hex(16) for name in SECRETS}
    text = (root / EXAMPLE).read_text()
    lines = []
    urls = {
        REPLICATED: REPLICATED,
        "postgres": f"postgresql://acordo:{made['ACORDO_POSTGRES_PASSWORD']}@postgres/acordo",
        "crdb3-dev": f"cockroachdb://root@{COCKROACHES}/defaultdb",
    }
    if store in urls:
        text = re.sub(r"(?m)^(COMPOSE_PROFILES|ACORDO_STORE)=.*\n", "", text)
        lines += [
            f"COMPOSE_PROFILES={store}" + ("" if air else ",grafana"),
            f"ACORDO_STORE={urls[store]}",
        ]
    if air:
        lines += air_images()
    lines += [f"{name}={value}" for name, value in made.items()]
    lines.append(
        f"ACORDO_CACHE=redis+sentinel://:{made['ACORDO_REDIS_PASSWORD']}@{SENTINELS}/acordo"
    )
    if socket is not None:
        lines += [f"ACORDO_DOCKER_SOCK={socket}", f"ACORDO_DOCKER_GID={socket.stat().st_gid}"]
    if http_port:
        lines.append(f"ACORDO_HTTP_PORT={http_port}")
    return text + "".join(line + "\n" for line in lines)


def air_images() -> list[str]:
    """Return the settings that name the images built from the distribution's packages."""
    ours = [f"ACORDO_IMAGE_{name.upper()}=acordo-{name}:air" for name in ("node", "nginx")]
    return ours + [f"ACORDO_IMAGE_{name.upper()}=acordo-air-{name}:bookworm" for name in AIR_IMAGES]


def write(path: Path, text: str) -> None:
    """Write a file atomically, readable by its owner alone."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def changed(path: Path, name: str, value: str) -> None:
    """Set one setting in the file and leave the other lines as they are."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name}=")]
    mode = stat.S_IMODE(path.stat().st_mode)
    write(path, "\n".join([*lines, f"{name}={value}"]) + "\n")
    path.chmod(mode)
