"""Draw the network of each provider: `python -m CLOUD.network` writes network-aws.svg and so on.

A test holds the pictures to this script.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

FOLDER: Final = Path(__file__).parent
PROVIDERS: Final[dict[str, dict[str, str]]] = {
    "aws": {
        "title": "AWS",
        "net": "VPC 10.0.0.0/16",
        "entry": "Network Load Balancer, TLS, port 443",
        "node": "EKS pod, EBS gp3",
        "store": "RDS PostgreSQL, Multi-AZ",
        "cache": "ElastiCache",
        "broker": "Amazon MQ, RabbitMQ",
        "secret": "Secrets Manager, KMS",
        "backup": "S3, versioned, another account",
        "figures": "Managed Prometheus, Grafana",
    },
    "azure": {
        "title": "Azure",
        "net": "VNet 10.0.0.0/16",
        "entry": "Standard Load Balancer, TLS, port 443",
        "node": "AKS pod, Premium SSD",
        "store": "PostgreSQL Flexible Server",
        "cache": "Cache for Redis",
        "broker": "RabbitMQ on AKS",
        "secret": "Key Vault",
        "backup": "Blob storage, immutable",
        "figures": "Managed Prometheus, Grafana",
    },
    "gcp": {
        "title": "GCP",
        "net": "VPC 10.0.0.0/16",
        "entry": "External TCP load balancer, TLS, port 443",
        "node": "GKE pod, SSD disk",
        "store": "Cloud SQL, regional",
        "cache": "Memorystore",
        "broker": "RabbitMQ on GKE",
        "secret": "Secret Manager, KMS",
        "backup": "Cloud Storage, locked",
        "figures": "Managed Prometheus, Grafana",
    },
}
STYLE: Final = (
    "text{font:13px sans-serif;fill:#1d2733;text-anchor:middle}"
    ".t{font-weight:bold;font-size:15px}.s{font-size:11px;fill:#4a5a6a}"
    "rect{fill:#fff;stroke:#5b7083;rx:6}.net{fill:#f4f7fa}.zone{fill:#e8eff6;stroke-dasharray:4 3}"
    ".part{fill:#fff}.voter{fill:#dcefdc;stroke:#3d7a3d}.dash{stroke-dasharray:5 4}"
    "line{stroke:#5b7083;stroke-width:1.4;marker-end:url(#a)}.both{marker-start:url(#a)}"
)
WIDTH: Final = 820
HEIGHT: Final = 560


def _box(place: tuple[int, int, int, int], lines: Sequence[str], kind: str) -> str:
    x, y, w, h = place
    text = [
        f'<text class="{"" if n == 0 else "s"}" x="{x + w // 2}" y="{y + 20 + 16 * n}">'
        f"{escape(line)}</text>"
        for n, line in enumerate(lines)
    ]
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}"/>' + "".join(text)


def _line(x1: int, y1: int, x2: int, y2: int, kind: str = "") -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def draw(name: str) -> str:
    """Return the picture of a provider's network as SVG."""
    said = PROVIDERS[name]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>Acordo on {said['title']}</title><style>{STYLE}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="#5b7083"/></marker></defs>',
        _box((310, 10, 200, 34), ["clients, same region"], "part"),
        _box((20, 66, 780, 400), [], "net"),
        _line(410, 44, 410, 92),
        f'<text class="t" x="100" y="88">{escape(said["net"])}</text>',
        _box((230, 94, 360, 44), [said["entry"], "public subnets of three zones"], "part"),
    ]
    for n in range(3):
        x = 40 + 255 * n
        parts += [
            _box((x, 160, 230, 190), [f"zone {'abc'[n]}, private subnet"], "zone"),
            _line(410, 138, x + 115, 159),
            _box((x + 15, 190, 200, 34), ["nginx (pod)"], "part"),
            _line(x + 115, 224, x + 115, 244),
            _box((x + 15, 246, 200, 52), [f"acordo-{n}, a voter", said["node"]], "voter"),
            _box((x + 15, 306, 200, 34), ["observers, by load"], "part dash"),
        ]
    parts += [
        _line(255, 272, 308, 272, "both"),
        _line(510, 272, 563, 272, "both"),
        '<text class="s" x="281" y="264">9001</text><text class="s" x="536" y="264">9001</text>',
        _line(155, 350, 155, 384),
        _line(410, 350, 410, 384),
        _line(665, 350, 665, 384),
        _box((40, 386, 230, 52), [said["store"], "only if the store is shared"], "part dash"),
        _box((295, 386, 230, 52), [said["cache"], "optional"], "part dash"),
        _box((550, 386, 230, 52), [said["broker"], "optional"], "part dash"),
        '<text class="s" x="410" y="456">no way in from outside but the balancer; members speak '
        "mutual TLS on port 9001</text>",
        _box((20, 490, 250, 52), [said["secret"], "certificates, tokens, keys of disks"], "part"),
        _box((285, 490, 250, 52), [said["backup"], "daily, kept 14 days"], "part"),
        _box((550, 490, 250, 52), [said["figures"], "alerts to whoever is on call"], "part"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Write the pictures; return the exit code."""
    for name in PROVIDERS:
        (FOLDER / f"network-{name}.svg").write_text(draw(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
