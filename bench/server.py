"""One server under measurement, as a process: `python -m bench.server FRAMEWORK bare|guarded|plain PORT`.

`bare` and `guarded` run as `garrison serve` runs an app, on the same protocol class; `plain` is the bare app on
uvicorn's own httptools protocol with the same options, to show what the edge costs.
"""

import sys

import uvicorn

from bench.apps import bare, guarded
from garrison.serve.server import BACKLOG, KEEP_ALIVE_S, serve

KINDS = ("plain", "bare", "guarded")


def main(framework: str, kind: str, port: int) -> int:
    """Serve until SIGTERM; return the exit code."""
    if kind != "plain":
        return serve(guarded(framework) if kind == "guarded" else bare(framework), host="127.0.0.1", port=port)
    uvicorn.run(
        bare(framework),
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        loop="uvloop",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
