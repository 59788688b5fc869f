"""`tickwick serve`."""

import gc
from typing import Any

import click

from app.cli.console import LOGGING, load, out, run, settings_options


@click.command("serve")
@settings_options(
    "dsn",
    "host",
    "port",
    "pool_size",
    "max_clients",
    "stream_flush_ms",
    "heartbeat_s",
    "outbox_bytes",
    "request_weight",
    "connection_limit",
    "admin_token",
    *LOGGING,
)
def serve_command(**given: Any) -> None:
    """Serve REST, the live stream, the page and the API docs."""
    from app.main import serve  # slow to import, and the other commands need no web framework

    def ready(address: str) -> None:
        # What is there now stays: looked at by no collection, a pause for all clients becomes half as long.
        gc.collect()
        gc.freeze()
        out.print(f"serving {address}")

    run(serve(load(given), ready))
