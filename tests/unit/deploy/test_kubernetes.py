"""What the manifests of Kubernetes and the chart made of them say, read without a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from cluster.settings.loading import load
from cluster.settings.node import NodeSettings
from cluster.settings.worker import WorkerSettings
from deploy.chart import CHART, MANIFESTS, chart
from kv.errors import BadRequest

Document = dict[str, Any]
WITHOUT_SCHEMA = {
    "kustomize.config.k8s.io/v1beta1": "read by kubectl itself",
    "monitoring.coreos.com/v1": "the Prometheus operator's",
    "cert-manager.io/v1": "cert-manager's",
}
"""Kinds that no schema of the package describes."""


def documents(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


FILES = {path.name: documents(path.read_text()) for path in sorted(MANIFESTS.glob("*.yaml"))}
ALL = [document for found in FILES.values() for document in found]


def of_kind(*kinds: str) -> Iterator[Document]:
    return (document for document in ALL if document["kind"] in kinds)


def named(kind: str, name: str) -> Document:
    return next(d for d in of_kind(kind) if d["metadata"]["name"] == name)


def pods() -> dict[str, Document]:
    """Return the pod template of each workload."""
    return {
        document["metadata"]["name"]: document["spec"]["template"]
        for document in of_kind("StatefulSet", "Deployment")
    }


def selected(selector: Document, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ())
    )


def check(document: Document) -> None:
    if document["apiVersion"] not in WITHOUT_SCHEMA:
        kubernetes_validate.validate(document, "1.34", strict=True)


@pytest.mark.parametrize("name", FILES)
def test_every_document_is_what_kubernetes_takes(name: str) -> None:
    assert FILES[name]
    for document in FILES[name]:
        check(document)


def test_a_field_that_there_is_not_is_found() -> None:
    wrong = named("Service", "acordo-members") | {"spec": {"clusterIp": "None"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong)


def test_everything_lies_in_the_namespace_and_every_file_is_listed() -> None:
    named_there = re.findall(r"^  (?:# )?- (\S+\.yaml)$", _kustomization(), re.MULTILINE)
    assert sorted(named_there) == sorted(set(FILES) - {"kustomization.yaml"})
    for document in ALL:
        if document["kind"] not in {"Namespace", "Kustomization"}:
            assert document["metadata"]["namespace"] == "acordo", document["metadata"]


def _kustomization() -> str:
    return (MANIFESTS / "kustomization.yaml").read_text()


def test_what_selects_finds_pods_and_ports() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    for service in of_kind("Service"):
        found = [
            n for n, own in labels.items() if service["spec"]["selector"].items() <= own.items()
        ]
        assert found, service["metadata"]["name"]
        names = {p["name"] for n in found for p in pods()[n]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for document in of_kind("PodDisruptionBudget", "StatefulSet", "Deployment"):
        assert any(selected(document["spec"]["selector"], own) for own in labels.values())
    policies = [d["spec"] for d in of_kind("NetworkPolicy")]
    for policy in policies:
        assert any(selected(policy["podSelector"], own) for own in labels.values())
    assert all(
        any(selected(policy["podSelector"], own) for policy in policies)
        for name, own in labels.items()
        if name != "acordo-worker"  # it only asks
    )
    scaled = next(of_kind("HorizontalPodAutoscaler"))["spec"]["scaleTargetRef"]
    assert "replicas" not in named(scaled["kind"], scaled["name"])["spec"]


def test_what_a_pod_refers_to_is_there_or_may_be_missing() -> None:
    maps = {d["metadata"]["name"] for d in of_kind("ConfigMap")} | {"acordo-start"}
    accounts = {d["metadata"]["name"] for d in of_kind("ServiceAccount")}
    by_hand = {
        "acordo-raft",
        "acordo-backends",
        "acordo-https",
        "acordo-tokens",
    }  # README.md says how
    for name, pod in pods().items():
        spec = pod["spec"]
        assert spec.get("serviceAccountName", next(iter(accounts))) in accounts
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in spec["containers"]:
            claimed = {"data"} if name == "acordo" else set()  # the StatefulSet's own
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == set(volumes) | claimed, name
            for source in container.get("envFrom", ()):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in maps
        for volume in volumes.values():
            if "configMap" in volume and not volume["configMap"].get("optional"):
                assert volume["configMap"]["name"] in maps
            if "secret" in volume:
                assert volume["secret"]["secretName"] in by_hand
    assert "name: acordo-start" in _kustomization()


def test_no_pod_has_rights_that_it_does_not_need() -> None:
    for pod in pods().values():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert "memory" in container["resources"]["limits"]
            assert "readinessProbe" in container


def test_a_node_would_refuse_the_links_that_kubernetes_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, pod in pods().items():
        if "acordo-node" in pod["spec"]["containers"][0]["image"]:
            assert pod["spec"]["enableServiceLinks"] is False, name
    monkeypatch.setenv("ACORDO_PORT", "tcp://10.96.0.10:80")
    with pytest.raises(BadRequest, match="ACORDO_PORT"):
        load(NodeSettings, [], prog="node")


# ---------------------------------------------------------------------------------------- members


def first_members() -> dict[str, str]:
    text = named("ConfigMap", "acordo-settings")["data"]["members"]
    pairs = text.strip().removeprefix("FIRST=").split(",")
    return dict(pair.split("=", 1) for pair in pairs)


def test_the_members_are_the_pods_of_the_stateful_set() -> None:
    stateful = named("StatefulSet", "acordo")["spec"]
    assert stateful["podManagementPolicy"] == "Parallel"
    assert named("Service", stateful["serviceName"])["spec"]["publishNotReadyAddresses"] is True
    wanted = {f"acordo-{n}": f"acordo-{n}.acordo-members:9001" for n in range(stateful["replicas"])}
    assert first_members() == wanted
    projected = next(v for v in stateful["template"]["spec"]["volumes"] if v["name"] == "tls")
    there = {source["secret"]["name"] for source in projected["projected"]["sources"]}
    made = {
        d["spec"]["secretName"]: d["spec"]["commonName"]
        for d in of_kind("Certificate")
        if not d["spec"].get("isCA")
    }
    assert made.pop("acordo-https") == "acordo-members"
    assert made == {f"{name}-tls": name for name in wanted}
    assert there == set(made)


def started(root: Path, pod: str, **environ: str) -> NodeSettings:
    """Run what a pod runs up to the node itself, and return the settings that it would take."""
    (root / "settings").mkdir(exist_ok=True)
    text = named("ConfigMap", "acordo-settings")["data"]["members"]
    (root / "settings" / "members").write_text(text)
    (root / "keys").mkdir(exist_ok=True)
    (root / "bin").mkdir(exist_ok=True)
    told = root / "bin" / "python"
    told.write_text('#!/bin/sh\n[ "$*" = "-m node" ] && env\n')
    told.chmod(0o755)
    done = subprocess.run(
        ["sh", str(MANIFESTS / "start.sh")],
        env={
            **named("ConfigMap", "acordo-environment")["data"],
            "PATH": f"{root}/bin:{os.environ['PATH']}",
            "ROOT": str(root),
            "POD_NAME": pod,
            "KEYS": str(root / "keys"),
            **environ,
        },
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    own = {name: value for name, _, value in pairs if name.startswith("ACORDO_")}
    flags = [f"--{n.removeprefix('ACORDO_').lower().replace('_', '-')}={v}" for n, v in own.items()]
    return load(NodeSettings, flags, prog="node")


def with_secret(root: Path, *, https: bool = True) -> None:
    if https:
        with_https(root)
    (root / "secrets").mkdir()
    secret = root / "secrets" / "raft"
    secret.write_text("s" * 64)
    secret.chmod(0o440)  # as Kubernetes mounts it for the pod's group


def with_https(root: Path) -> None:
    (root / "https").mkdir()
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (root / "https" / name).write_text(name)
        (root / "https" / name).chmod(0o440)


def test_nobody_is_served_in_the_clear_unless_somebody_says_so(tmp_path: Path) -> None:
    with_secret(tmp_path, https=False)
    with pytest.raises(BadRequest, match="http_open"):
        started(tmp_path, "acordo-0")
    assert started(tmp_path, "acordo-0", ACORDO_HTTP_OPEN="true").url.startswith("http://")
    with_https(tmp_path)
    settings = started(tmp_path, "acordo-0")
    assert settings.closed
    assert settings.http_tls_key_file == tmp_path / "keys" / "https.key"
    assert settings.http_tls_key_file.stat().st_mode & 0o077 == 0
    assert "ACORDO_HTTP_OPEN" not in named("ConfigMap", "acordo-environment")["data"]


def test_every_name_by_which_https_is_reached_is_in_its_certificate() -> None:
    names = set(named("Certificate", "acordo-https")["spec"]["dnsNames"])
    by_hand = (MANIFESTS / "README.md").read_text()
    assert set(re.findall(r"--host '?([^\s'\\]+)", by_hand)) == names
    wanted = {address.removesuffix(":9001") for address in first_members().values()}
    wanted |= set(named("ConfigMap", "acordo-environment")["data"]["ACORDO_HTTP_NAMES"].split(","))
    balancer = {
        e["name"]: e["value"] for e in pods()["acordo-balancer"]["spec"]["containers"][0]["env"]
    }
    wanted |= {balancer["ACORDO_BALANCER_NODES_NAME"], "acordo", "localhost"}
    assert wanted <= names
    scraped = next(of_kind("ServiceMonitor"))["spec"]["endpoints"][0]
    assert scraped["scheme"] == "https" and scraped["tlsConfig"]["serverName"] in names
    assert scraped["authorization"]["credentials"]["key"] in re.findall(
        r"--from-file=(\w+)=", by_hand
    )
    observer = pods()["acordo-observer"]["spec"]["containers"][0]
    assert ".acordo-observers.$POD_NAMESPACE.svc.cluster.local" in observer["args"][0]


def test_probes_speak_what_the_port_speaks() -> None:
    for name, pod in pods().items():
        container = pod["spec"]["containers"][0]
        plain = name == "acordo-worker"  # its metrics, which the policy lets Prometheus alone reach
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                assert container[probe]["httpGet"].get("scheme") == (None if plain else "HTTPS")


def test_a_pod_starts_the_member_of_its_name(tmp_path: Path) -> None:
    with_secret(tmp_path)
    for pod, address in first_members().items():
        settings = started(tmp_path, pod)
        assert (settings.node_id, settings.raft_address) == (pod, address)
        assert {m.id: m.raft_address for m in settings.first_members} == first_members()
        assert settings.url == f"https://{address.removesuffix(':9001')}:8000"
        assert settings.secret_file == tmp_path / "keys" / "raft"
        assert settings.secret_file.stat().st_mode & 0o077 == 0


def test_a_replaced_member_is_a_new_one_at_the_same_address(tmp_path: Path) -> None:
    with_secret(tmp_path)
    (tmp_path / "replaced").mkdir()
    (tmp_path / "replaced" / "acordo-1").write_text("acordo-1-2")
    settings = started(tmp_path, "acordo-1")
    assert settings.node_id == "acordo-1-2"
    assert settings.raft_address == first_members()["acordo-1"]
    told = {m.id: m.voter for m in settings.first_members}
    assert told == {"acordo-0": True, "acordo-2": True, "acordo-1-2": False}
    assert started(tmp_path, "acordo-0").node_id == "acordo-0"


def test_with_certificates_each_member_proves_itself_with_its_own(tmp_path: Path) -> None:
    with_https(tmp_path)
    for pod in first_members():
        folder = tmp_path / "tls" / pod
        folder.mkdir(parents=True)
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (folder / name).write_text(pod)
    settings = started(tmp_path, "acordo-2")
    assert settings.secret_file is None
    assert settings.tls_cert_file is not None
    assert settings.tls_key_file is not None
    assert settings.tls_key_file.read_text() == "acordo-2"
    assert settings.tls_key_file.stat().st_mode & 0o077 == 0


def test_a_worker_takes_its_settings() -> None:
    container = pods()["acordo-worker"]["spec"]["containers"][0]
    own = {e["name"]: e.get("value", "amqp://a:b@c/") for e in container["env"]}
    of_client = {"ACORDO_CA", "ACORDO_TOKEN_FILE"}
    flags = [
        f"--{n.removeprefix('ACORDO_').lower().replace('_', '-')}={v}"
        for n, v in own.items()
        if n not in of_client
    ]
    assert of_client <= set(own)
    assert load(WorkerSettings, flags, prog="worker").urls


# ------------------------------------------------------------------------------------------ chart


def rendered(text: str, values: dict[str, Any]) -> str:
    """Put values in where a template of ours names them. It knows the forms that deploy.chart
    makes, and no others.
    """

    def value(found: re.Match[str]) -> str:
        place: Any = values
        for part in found[1].split("."):
            place = place[part]
        return str(yaml.safe_dump(place, default_flow_style=True)).removesuffix("...\n").strip()

    text = re.sub(r"^\{\{- if .*?\}\}\n|^\{\{- end \}\}\n", "", text, flags=re.MULTILINE)
    text = re.sub(r" *\{\{- range .*?\{\{- end \}\}\n", "", text, flags=re.DOTALL)
    text = re.sub(r"\{\{ \.Values\.([\w.]+) \| toJson \}\}", value, text)
    text = text.replace("{{ .Release.Namespace }}", "acordo")
    start = (CHART / "files" / "start.sh").read_text()
    indented = "".join(f"    {line}\n" if line else "\n" for line in start.splitlines())
    return text.replace('{{ .Files.Get "files/start.sh" | indent 4 }}\n', indented)


def test_the_chart_is_in_step_with_the_manifests() -> None:
    there = {str(p.relative_to(CHART)): p.read_text() for p in CHART.rglob("*") if p.is_file()}
    assert there == chart(), f"run make chart ({sys.executable})"


def test_the_chart_with_its_defaults_is_the_manifests() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    found: list[Document] = []
    for path in sorted((CHART / "templates").glob("*.yaml")):
        text = rendered(path.read_text(), values)
        assert "{{" not in text, path.name
        found += documents(text)
    start = next(d for d in found if d["metadata"]["name"] == "acordo-start")
    assert start["data"]["start.sh"] == (MANIFESTS / "start.sh").read_text()
    found.remove(start)
    wanted = [d for d in ALL if d["kind"] not in {"Namespace", "Kustomization"}]
    key = lambda d: (d["kind"], d["metadata"]["name"])  # noqa: E731 - both lists by the same
    assert sorted(found, key=key) == sorted(wanted, key=key)
    for document in [*found, start]:
        check(document)
