"""Say by the exit code whether the node of this container is ready. Asks nobody else."""

import sys
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8000/readyz"


def main(url: str) -> int:
    """Return 0 when `url` answers 200, else 1 with the reason on standard output."""
    try:
        with urllib.request.urlopen(url, timeout=3) as response:
            return 0 if response.status == 200 else 1
    except urllib.error.HTTPError as exc:
        print(exc.read(2000).decode(errors="replace"))
    except OSError as exc:
        print(exc)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or [URL]))
