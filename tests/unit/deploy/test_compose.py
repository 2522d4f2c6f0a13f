"""What docker-compose.yml, the alerts and the list of mirrors say, read without an engine."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from deploy import console
from deploy.dashboard import panels
from deploy.images import CannotBuild, mirrors
from node.api.routes import WHOLE
from tests.services import needs

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS: dict[str, Any] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
ALERT_TESTS: dict[str, Any] = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())
RULES: dict[str, Any] = {r["alert"]: r for g in ALERTS["groups"] for r in g["rules"]}
READINESS = (*(ROOT / "node" / "readiness").glob("*.py"), ROOT / "node" / "__main__.py")
OBSERVERS_MAX = 2
MARGIN_MB = 128
STORES = ("replicated", "crdb-dev", "crdb3-dev", "postgres")
SCHEMA = Path("/usr/lib/python3/dist-packages/compose/config/compose_spec.json")
"""The Compose specification's schema, as the distribution's docker-compose carries it."""


ONCE = {"secret", "cockroach-init"}
"""Services that do one thing and end."""
UNCHECKED = {
    "blackbox": "its images have no client in common; `up` of the job `redis` says when it is away"
}
"""Services that run on without a health check, each with its reason."""
CAPABLE = {
    **dict.fromkeys(
        ("rabbit1", "rabbit2", "rabbit3", "postgres"), "its entrypoint gives the volume to its user"
    ),
    **dict.fromkeys(
        ("cockroach", "cockroach1", "cockroach2", "cockroach3"), "its image runs as root"
    ),
}
"""Services that keep the engine's capabilities, each with its reason: their images could not be run
to see.
"""


def megabytes(service: dict[str, Any]) -> int:
    return int(service["mem_limit"].removesuffix("m"))


def errors_of(schema: dict[str, Any], compose: dict[str, Any]) -> list[str]:
    return [e.message for e in jsonschema_rs.validator_for(schema).iter_errors(compose)]


@pytest.mark.parametrize("store", STORES)
def test_each_profile_fits_into_six_gigabytes(store: str) -> None:
    taken = {
        n: megabytes(s)
        for n, s in COMPOSE["services"].items()
        if set(s.get("profiles", [store])) & {store, "grafana"}
    }
    observers = OBSERVERS_MAX * taken["node1"]
    assert sum(taken.values()) + observers <= 6 * 1024
    running_on = sum(m for name, m in taken.items() if name not in ONCE)
    assert running_on + observers <= 6 * 1024 - MARGIN_MB


def test_the_published_schema_of_compose_files_takes_it() -> None:
    needs("compose")
    schema = json.loads(SCHEMA.read_text())
    assert errors_of(schema, COMPOSE) == []
    broken = copy.deepcopy(COMPOSE)
    broken["services"]["node1"]["memory_limit"] = "1m"
    assert errors_of(schema, broken)


@pytest.mark.parametrize("profiles", [*STORES, *(f"{s},grafana" for s in STORES)])
def test_compose_1_29_takes_every_profile(profiles: str, tmp_path: Path) -> None:
    needs("compose")
    env = tmp_path / "env"
    env.write_text(f"COMPOSE_PROFILES={profiles}\nACORDO_HTTP_PORT=8090\n")
    done = subprocess.run(
        ["docker-compose", "--env-file", str(env), "config"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    found = yaml.safe_load(done.stdout)["services"]
    assert {n for n, s in COMPOSE["services"].items() if not s.get("profiles")} <= set(found)
    assert "127.0.0.1:8090:8080" in done.stdout


def test_every_service_is_waited_for_bounded_and_logged_within_limits() -> None:
    for name, service in COMPOSE["services"].items():
        assert megabytes(service) > 0, name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "2"}, name
        if name in ONCE:
            continue
        assert service["restart"] == "unless-stopped", name
        assert ("test" in service.get("healthcheck", {})) is (name not in UNCHECKED), name
        for other, how in (
            (service.get("depends_on") or {}).items()
            if isinstance(service.get("depends_on"), dict)
            else ()
        ):
            waits = {"service_healthy": "healthcheck", "service_completed_successfully": "command"}
            assert waits[how["condition"]] in COMPOSE["services"][other], (name, other)
            assert other in ONCE, f"{name} does not come up where {other} is broken"


def test_each_check_is_patient_with_a_busy_machine() -> None:
    for name, service in COMPOSE["services"].items():
        if name not in ONCE and name not in UNCHECKED:
            check = service["healthcheck"]
            assert (check["timeout"], check["interval"] in ("5s", "10s")) == ("15s", True), name
            assert check["retries"] >= 4, name


def test_no_process_gains_privileges_and_none_has_a_capability_without_a_reason() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert (service.get("cap_drop") == ["ALL"]) is (name not in CAPABLE), name
        assert "privileged" not in service and "cap_add" not in service, name


@pytest.mark.parametrize(
    "name", ["redis1", "redis2", "redis3", "sentinel1", "sentinel2", "sentinel3"]
)
def test_redis_and_sentinel_never_run_as_root(name: str) -> None:
    assert COMPOSE["services"][name]["user"] == "redis"


def test_every_port_is_published_on_loopback_alone() -> None:
    for name, service in COMPOSE["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_every_image_comes_from_the_environment_with_an_exact_default() -> None:
    for name, service in COMPOSE["services"].items():
        match = re.fullmatch(r"\$\{ACORDO_IMAGE_[A-Z]+:-([^}]+:[^}]+)\}", service["image"])
        assert match and not match[1].endswith(":latest"), name


def test_no_variable_stands_in_the_default_of_another() -> None:
    """Compose 1.29 takes what is inside for text."""
    assert re.findall(r"\$\{[^}]*\$\{", (ROOT / "docker-compose.yml").read_text()) == []


def test_every_variable_is_described() -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "docker-compose.yml").read_text()))
    described = set(re.findall(r"(?m)^#?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text()))
    assert used <= described


def promtool(folder: Path) -> tuple[int, str]:
    needs("prometheus")
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_each_alert_fires_and_clears() -> None:
    code, said = promtool(PROMETHEUS)
    assert code == 0, said
    seen: dict[str, list[list[bool]]] = {name: [] for name in RULES}
    for test in ALERT_TESTS["tests"]:
        (alert,) = {asked["alertname"] for asked in test["alert_rule_test"]}
        seen[alert].append([bool(asked["exp_alerts"]) for asked in test["alert_rule_test"]])
    for alert, outcomes in seen.items():
        silent = [each for each in outcomes if not any(each)]
        assert silent, f"{alert} has no near miss"
        assert len(silent) < len(outcomes), f"{alert} never fires"
        assert all(each == [False, True, False] for each in outcomes if each not in silent), alert


@pytest.mark.parametrize("alert", RULES)
def test_each_near_miss_is_near(alert: str, tmp_path: Path) -> None:
    """An alert that did not wait would fire where its test says that it stays silent."""
    rules = copy.deepcopy(ALERTS)
    (rule,) = (r for g in rules["groups"] for r in g["rules"] if r["alert"] == alert)
    rule["for"] = "0s"
    (tmp_path / "alerts.yml").write_text(json.dumps(rules))  # JSON is YAML
    # The others' tests do not meet this rule, and take most of the time.
    own = [
        each
        for each in ALERT_TESTS["tests"]
        if alert in {asked["alertname"] for asked in each["alert_rule_test"]}
    ]
    told = ALERT_TESTS | {"tests": own}
    (tmp_path / "alerts_test.yml").write_text(json.dumps(told))
    code, said = promtool(tmp_path)
    assert code == 1 and alert in said


@pytest.mark.parametrize("alert", RULES)
def test_what_an_alert_says_and_asks_exists(alert: str) -> None:
    rule = RULES[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    asked = {
        name.removesuffix("_total").removesuffix("_bucket")
        for name in re.findall(r"acordo_\w+", rule["expr"])
    }
    code = "".join(
        path.read_text()
        for package in ("node", "cluster")
        for path in (ROOT / package).rglob("*.py")
    )
    assert all(f'"{name}"' in code for name in asked), asked
    others = set(re.findall(r"\b(up|probe_success|rabbitmq_queue_messages_ready)\b", rule["expr"]))
    assert asked or others
    action = rule["annotations"]["action"]
    routes = {(method, route.template) for route in WHOLE for method in route.handlers}
    checks = set(
        re.findall(r'(?:Finding|Check)\(\s*"(\w+)"', "".join(p.read_text() for p in READINESS))
    )
    named = [
        *((call in routes, call) for call in re.findall(r"([A-Z]+) (/[a-z0-9/]+)", action)),
        *(
            (check in checks, check)
            for check in re.findall(r"the (\w+) check", action, re.IGNORECASE)
        ),
        *(
            (panel in {p.title for p in panels()}, panel)
            for panel in re.findall(r'"([^"]+)"', action)
        ),
        *(
            (name in COMPOSE["services"], name)
            for name in re.findall(r"\b[a-z]+\d\b", action.replace("/v1/", ""))
        ),
    ]
    assert named, "an action that names nothing"
    assert [what for exists, what in named if not exists] == []


def test_the_alert_on_voters_knows_how_many_there_are_and_asks_each_by_name() -> None:
    expr = RULES["AcordoVoterAway"]["expr"]
    members = COMPOSE["services"]["node1"]["environment"]["ACORDO_MEMBERS"].split(",")
    assert expr.endswith(f" < {len(members)}")
    jobs = {
        j["job_name"]: j
        for j in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    }
    targets = jobs["nodes"]["static_configs"][0]["targets"]
    assert [t.partition(":")[0] for t in targets] == [
        m.partition("=")[2].partition(":")[0] for m in members
    ]


def test_whoever_has_fellows_is_asked_by_name_whether_it_is_there() -> None:
    """Losing one of several changes nothing else that anybody would see."""
    jobs = {
        j["job_name"]: j
        for j in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    }
    asked = {
        t.partition(":")[0]
        for j in jobs.values()
        for c in j.get("static_configs", ())
        for t in c["targets"]
    }
    several = {
        n for n, s in COMPOSE["services"].items() if re.search(r"\d$", n) and not s.get("profiles")
    }
    assert several <= asked
    assert jobs["workers"]["dns_sd_configs"][0]["names"] == ["worker"]


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_container_has_a_bound_on_processes_and_processor(name: str) -> None:
    service = COMPOSE["services"][name]
    assert 0 < service["cpus"] <= 1.0  # the engine refuses more than the machine has
    assert 0 < service["pids_limit"] <= 1024


def test_the_live_page_asks_what_the_dashboard_asks() -> None:
    assert console.CONSOLE.read_text() == console.made(), "python -m deploy.console makes it anew"
    assert "{{" not in console.made()
    for panel in panels():
        assert panel.title in console.made()


def test_alertmanagers_settings_are_sound() -> None:
    needs("alertmanager")
    done = subprocess.run(
        ["amtool", "check-config", str(PROMETHEUS / "alertmanager.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_mirror_is_this_machines_own(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "deb [arch=amd64] http://one.invalid/debian bookworm main contrib\n# deb x y z\n"
    )
    (tmp_path / "sources.list.d" / "more.sources").write_text(
        "Types: deb\nURIs: http://two.invalid/security/\nSuites: bookworm-security\n\nTypes: "
        "deb\nURIs: http://x.invalid\n"
        "Suites: trixie\n"
    )
    assert mirrors(tmp_path) == (
        "http://one.invalid/debian",
        "deb http://one.invalid/debian bookworm main\n"
        "deb http://two.invalid/security bookworm-security main\n",
    )
    (tmp_path / "sources.list").write_text("")
    with pytest.raises(CannotBuild):
        mirrors(tmp_path)
