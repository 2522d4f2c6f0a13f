"""Stand in for `python -m node`: answers the runner's probes, and misbehaves as a file in its
directory says.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from aiohttp import web


async def main() -> None:
    directory = Path(os.environ["ACORDO_DATA_DIR"])
    if (directory / "refuse").exists():
        print("corrupt_journal: the journal is broken", file=sys.stderr)
        sys.exit(78)
    if (directory / "die").exists():
        sys.exit(1)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def good(request: web.Request) -> web.Response:
        return web.json_response({"leader": "n1", "node": os.environ["ACORDO_NODE_ID"]})

    app = web.Application()
    for path in ("/livez", "/readyz", "/v1/leader", "/v1/cluster"):
        app.router.add_get(path, good)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(
        runner, os.environ["ACORDO_HTTP_HOST"], int(os.environ["ACORDO_HTTP_PORT"])
    ).start()
    asyncio.get_running_loop().run_in_executor(None, sys.stdin.read).add_done_callback(
        lambda _: stop.set()
    )
    await stop.wait()
    (directory / "stopped-cleanly").touch()
    os._exit(0)  # the thread that reads standard input would be waited for


asyncio.run(main())
