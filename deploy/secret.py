"""Create a secret file, readable by its owner alone: `python -m deploy.secret FILE`.

It never replaces an existing one.
"""

import sys
from pathlib import Path

from cluster.local.layout import make_secret

if __name__ == "__main__":
    make_secret(Path(sys.argv[1]))
