"""Reckon what a cluster costs in a month: `python -m CLOUD.costs [--lang en|pt] [--write]`.

Prices, sizes and assumptions come from prices.toml, and nothing else does. With `--write` the
tables of both README files are written anew; a test holds them to this script. It asks nobody for a
price, and rounds only what it prints.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
PRICES: Final = FOLDER / "prices.toml"
PAGES: Final = {"en": FOLDER / "README.md", "pt": FOLDER / "README.pt-BR.md"}
SECONDS_PER_MONTH: Final = 730 * 3600
GB: Final = 1e9
POSTGRES_VCPU_MIN: Final = 2

HEADS: Final = {
    "en": (
        *("size", "provider", "machines", "disks", "Kubernetes, balancer", "between zones"),
        *("backups", "**replicated store**", "+ shared store", "+ Redis, RabbitMQ"),
    ),
    "pt": (
        *("tamanho", "provedor", "máquinas", "discos", "Kubernetes, balanceador", "entre zonas"),
        *("backups", "**store replicado**", "+ store compartilhado", "+ Redis, RabbitMQ"),
    ),
}
SOURCES: Final = {
    "en": ("price", *("AWS", "Azure", "GCP"), "assumed"),
    "pt": ("preço", *("AWS", "Azure", "GCP"), "suposto"),
}


@dataclass(frozen=True)
class Size:
    """What is asked of a cluster."""

    voters: int
    observers: int
    vcpu: int
    keys: int
    value_bytes: int
    writes_per_s: float
    reads_per_s: float


@dataclass(frozen=True)
class Need:
    """What it takes of a provider in a month."""

    machines: int
    vcpu: int
    data_gb: float
    disk_gb: float
    """Of each member."""
    zone_gb: float
    out_gb: float
    backup_gb: float
    postgres_vcpu: float


@dataclass(frozen=True)
class Cost:
    """US dollars in a month."""

    machines: float
    disks: float
    around: float
    """Kubernetes and the balancer."""
    zones: float
    """Traffic between zones, and out."""
    backups: float
    shared: float
    """What a managed PostgreSQL adds."""
    more: float
    """What a managed cache and a broker add."""

    @property
    def replicated(self) -> float:
        """The whole, where each member keeps its own store."""
        return self.machines + self.disks + self.around + self.zones + self.backups


def size_of(prices: dict[str, Any], name: str) -> Size:
    """Return a size by its name."""
    return Size(**{k: v for k, v in prices["size"][name].items() if k != "title"})


def needed(size: Size, assume: dict[str, Any]) -> Need:
    """Return what a size takes."""
    value = {name: float(each["value"]) for name, each in assume.items()}
    data_gb = size.keys * (size.value_bytes + value["row_overhead_bytes"]) / GB
    copies = size.voters + size.observers - 1
    written = size.writes_per_s * (size.value_bytes + value["entry_overhead_bytes"])
    read = size.reads_per_s * (size.value_bytes + value["read_overhead_bytes"])
    between = written * copies + read * value["other_zone_share"]
    return Need(
        machines=size.voters + size.observers,
        vcpu=size.vcpu,
        data_gb=data_gb,
        disk_gb=max(data_gb * value["disk_spare"], value["disk_least_gb"]),
        zone_gb=between * SECONDS_PER_MONTH / GB,
        out_gb=read * value["out_share"] * SECONDS_PER_MONTH / GB,
        backup_gb=data_gb * value["backups_kept"],
        postgres_vcpu=max(
            size.voters * size.vcpu * value["postgres_vcpu_share"], POSTGRES_VCPU_MIN
        ),
    )


def cost(need: Need, provider: dict[str, Any], hours: float) -> Cost:
    """Return what that costs at one provider."""
    usd = {name: float(each["usd"]) for name, each in provider.items() if name != "title"}
    return Cost(
        machines=need.machines * need.vcpu * usd["vcpu_hour"] * hours,
        disks=need.machines * need.disk_gb * usd["disk_gb_month"],
        around=(usd["kubernetes_hour"] + usd["balancer_hour"]) * hours,
        zones=need.zone_gb * usd["zone_gb"] + need.out_gb * usd["out_gb"],
        backups=need.backup_gb * usd["object_gb_month"],
        shared=need.postgres_vcpu * usd["postgres_vcpu_hour"] * hours
        + need.disk_gb * usd["postgres_gb_month"],
        more=(usd["redis_hour"] + usd["broker_hour"]) * hours,
    )


def table(prices: dict[str, Any], lang: str) -> str:
    """Return the costs of every size at every provider, as a table of Markdown."""
    lines = [_row(HEADS[lang]), _row(["---"] * len(HEADS[lang]))]
    for name, each in prices["size"].items():
        need = needed(size_of(prices, name), prices["assume"])
        for provider in prices["provider"].values():
            found = cost(need, provider, prices["hours_per_month"])
            figures = (found.machines, found.disks, found.around, found.zones, found.backups)
            title = provider["title"].split(",")[0]
            cells = [each["title"][lang], title, *map(_usd, figures)]
            cells += [f"**{_usd(found.replicated)}**", _usd(found.shared), _usd(found.more)]
            lines.append(_row(cells))
    return "\n".join(lines)


def sources(prices: dict[str, Any], lang: str) -> str:
    """Return every price, and whether a page or an assumption is behind it."""
    lines = [_row(SOURCES[lang]), _row(["---"] * len(SOURCES[lang]))]
    providers = list(prices["provider"].values())
    for name in [name for name in providers[0] if name != "title"]:
        guessed = [p["title"].split(",")[0] for p in providers if "assumed" in p[name]]
        cells = [f"`{name}`", *(f"{p[name]['usd']:g}" for p in providers)]
        lines.append(_row([*cells, ", ".join(guessed) or "–"]))
    return "\n".join(lines)


def load() -> dict[str, Any]:
    """Return what prices.toml says."""
    return tomllib.loads(PRICES.read_text())


def put(text: str, name: str, block: str) -> str:
    """Return a page with what stands between its marks `name` replaced. Raises ValueError if the
    page lacks them.
    """
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    found, count = marks.subn(lambda m: f"{m[1]}{block}\n{m[2]}", text)
    if count != 1:
        raise ValueError(f"the page has {count} places named {name}")
    return found


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _usd(value: float) -> str:
    return f"{value:,.0f}"


def main(argv: list[str]) -> int:
    """Print the tables, or write them into the pages; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m CLOUD.costs")
    parser.add_argument("--lang", choices=sorted(PAGES), default="en")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(argv)
    prices = load()
    if not options.write:
        print(table(prices, options.lang), sources(prices, options.lang), sep="\n\n")
        return 0
    for lang, path in PAGES.items():
        text = put(path.read_text(), "costs", table(prices, lang))
        path.write_text(put(text, "prices", sources(prices, lang)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
