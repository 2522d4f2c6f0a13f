"""Make the Helm chart from the manifests: `python -m deploy.chart` writes deploy/helm/acordo.

The manifests say in comments what becomes a value. `KEY: VALUE  # chart: NAME` gives the value NAME
its default and its place; `# chart-if: NAME` makes a whole file optional; `# chart-range: NAME`
takes further entries there. It never renders a template: no Helm is needed, and none was used.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
MANIFESTS: Final = FOLDER / "kubernetes"
CHART: Final = FOLDER / "helm" / "acordo"
VERSION: Final = "0.2.0"
NAMESPACE: Final = "acordo"
LEFT_OUT: Final = frozenset({"namespace.yaml", "kustomization.yaml"})
_VALUE: Final = re.compile(
    r"^(?P<head>\s*(?:- )?[\w-]+: )(?P<value>.+?)  # chart: (?P<name>[\w.]+)$"
)
_RANGE: Final = re.compile(r"^(?P<indent> *)# chart-range: (?P<name>[\w.]+)$")
_IF: Final = re.compile(r"^# chart-if: ([\w.]+)\n", re.MULTILINE)
ABOUT: Final = f"""\
# Made by `make chart` from deploy/kubernetes; do not edit. It was never rendered by Helm itself:
# see deploy/kubernetes/README.md.
apiVersion: v2
name: acordo
description: A strongly consistent key-value store
type: application
version: {VERSION}
appVersion: "{VERSION}"
"""
START: Final = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: acordo-start
  namespace: {{ .Release.Namespace }}
data:
  start.sh: |
{{ .Files.Get "files/start.sh" | indent 4 }}
"""


def templated(text: str, values: dict[str, Any]) -> str:
    """Return a manifest as a template, and enter the defaults of its values."""
    wanted = _IF.search(text)
    lines = []
    for line in _IF.sub("", text).splitlines():
        if found := _VALUE.match(line):
            _enter(values, found["name"], _default(found["value"]))
            line = f"{found['head']}{{{{ .Values.{found['name']} | toJson }}}}"  # noqa: PLW2901 - the line as it goes on
        elif found := _RANGE.match(line):
            _enter(values, found["name"], {})
            indent = found["indent"]
            lines += [
                f"{indent}{{{{- range $name, $value := .Values.{found['name']} }}}}",
                f"{indent}{{{{ $name }}}}: {{{{ $value | toJson }}}}",
            ]
            line = f"{indent}{{{{- end }}}}"  # noqa: PLW2901 - the same
        lines.append(line)
    text = "\n".join(lines) + "\n"
    text = text.replace(f"namespace: {NAMESPACE}\n", "namespace: {{ .Release.Namespace }}\n")
    text = re.sub(rf"\bacordo\.{NAMESPACE}\b", "acordo.{{ .Release.Namespace }}", text)
    text = text.replace(f".{NAMESPACE}.svc.", ".{{ .Release.Namespace }}.svc.")
    if wanted is None:
        return text
    _enter(values, wanted[1], False)
    return f"{{{{- if .Values.{wanted[1]} }}}}\n{text}{{{{- end }}}}\n"


def _default(text: str) -> Any:
    """Return the value of a scalar or a flat flow mapping, as the manifests write them."""
    if text.startswith("{"):
        pairs = (part.partition(": ") for part in text.strip("{}").split(", "))
        return {name: _default(value) for name, _, value in pairs}
    return int(text) if text.isdigit() else text.strip('"')


def _enter(values: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    place = values
    for part in path:
        place = place.setdefault(part, {})
    if place.setdefault(last, value) != value:
        raise ValueError(f"{name} has two defaults: {place[last]!r} and {value!r}")


def written(values: Mapping[str, Any], indent: str = "") -> str:
    """Return values as YAML; scalars as JSON, which is YAML."""
    lines = []
    for name, value in sorted(values.items()):
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", written(value, indent + "  ").rstrip("\n")]
        else:
            lines.append(f"{indent}{name}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def chart() -> dict[str, str]:
    """Return the files of the chart: path → content."""
    values: dict[str, Any] = {}
    files = {"Chart.yaml": ABOUT, "files/start.sh": (MANIFESTS / "start.sh").read_text()}
    for path in sorted(MANIFESTS.glob("*.yaml")):
        if path.name not in LEFT_OUT:
            files[f"templates/{path.name}"] = templated(path.read_text(), values)
    files["templates/start.yaml"] = START
    files["values.yaml"] = f"# Made by `make chart` from deploy/kubernetes.\n{written(values)}"
    return files


def main() -> int:
    """Write the chart anew; return the exit code."""
    shutil.rmtree(CHART, ignore_errors=True)
    for name, text in chart().items():
        place = CHART / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
