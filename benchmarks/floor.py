"""An empty FastAPI route with our server settings, the lower bound of every prediction's latency.

`python -m benchmarks.floor PORT`
"""

from __future__ import annotations

import sys

from benchmarks.servers import HOST


def serve(port: int) -> None:
    """Serve on a loopback port until the process ends."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()

    async def predict() -> dict[str, str]:
        return {}

    app.post("/predict")(predict)
    uvicorn.run(
        app, host=HOST, port=port, log_level="warning", access_log=False, server_header=False
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]))
