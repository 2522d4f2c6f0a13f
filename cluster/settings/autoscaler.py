"""Define the settings of the autoscaler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from cluster.settings.shared import SharedSettings
from cluster.settings.values import address, count, http_url, seconds, setting


class AutoscalerSettings(SharedSettings):
    """Settings of `python -m cluster autoscaler`: observers only, never voters."""

    autoscaler_driver: Literal["docker", "local"] = setting(
        "local", "how observers are started", "docker, local"
    )
    autoscaler_urls: str = setting(
        "http://127.0.0.1:8001", "nodes of the cluster", "URLs with a comma between them"
    )
    autoscaler_prometheus: Annotated[str, BeforeValidator(http_url)] = setting(
        "http://127.0.0.1:9090", "where the figures come from", "http(s)://HOST[:PORT]"
    )
    autoscaler_listen: Annotated[str, BeforeValidator(address)] = setting(
        "127.0.0.1:9100", "where its own /metrics and its last /decisions are shown", "HOST:PORT"
    )
    autoscaler_project: str = setting(
        "acordo", "compose project whose nodes it copies", "a project's name"
    )
    autoscaler_dir: Path = setting(
        Path("data/observers"), "directory of local observers", "path of a directory"
    )
    autoscaler_observers_min: int = count(0, "fewest observers", 0, 16)
    autoscaler_observers_max: int = count(2, "most observers", 0, 16)
    autoscaler_period_s: float = seconds(5, "time between two decisions", 0.1, 3600)
    autoscaler_cool_down_s: float = seconds(60, "rest after a change", 0, 86400)
    autoscaler_in_flight_high: float = setting(
        32, "mean requests in flight per node above which one is added", "> 0", gt=0
    )
    autoscaler_in_flight_low: float = setting(8, "and below which one is removed", "≥ 0", ge=0)
    autoscaler_p99_high_s: float = seconds(
        0.5, "99th percentile of answers above which one is added", 0.001, 60
    )
    autoscaler_p99_low_s: float = seconds(0.1, "and below which one may be removed", 0, 60)
    autoscaler_cpu_high: float = setting(
        0.8, "mean CPU per node, in cores, above which one is added", "> 0", gt=0
    )
    autoscaler_cpu_low: float = setting(0.3, "and below which one may be removed", "≥ 0", ge=0)
    autoscaler_rounds_high: int = count(2, "decisions in a row that must ask for one more", 1, 100)
    autoscaler_rounds_low: int = count(6, "decisions in a row that must ask for one less", 1, 100)

    @model_validator(mode="after")
    def _bands_are_open(self) -> Self:
        if self.autoscaler_observers_min > self.autoscaler_observers_max:
            raise ValueError("autoscaler_observers_min is above autoscaler_observers_max")
        for name in ("in_flight", "p99", "cpu"):
            unit = "_s" if name == "p99" else ""
            low = getattr(self, f"autoscaler_{name}_low{unit}")
            high = getattr(self, f"autoscaler_{name}_high{unit}")
            if low >= high:
                raise ValueError(
                    f"autoscaler_{name}_low{unit} must be below autoscaler_{name}_high{unit}"
                )
        return self
