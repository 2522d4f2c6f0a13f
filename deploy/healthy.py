"""Exit with 0 if https://127.0.0.1:PORT/PATH of this container answers 200: `python -m
deploy.healthy PORT PATH`, which deploy/healthy.sh runs for a node that serves HTTPS.

It trusts the certificate that the node was given, whatever name stands in it, and no other.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from typing import Final

TIMEOUT_S: Final = 10.0


def main(port: int, path: str) -> int:
    """Ask once; return the exit code."""
    context = ssl.create_default_context(cafile=os.environ["ACORDO_HTTP_TLS_CERT_FILE"])
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False  # it is reached by loopback, which no certificate has to name
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", path, headers={"Host": "localhost"})
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, http.client.HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
