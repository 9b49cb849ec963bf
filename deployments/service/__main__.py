"""`naruto-service`: start the HTTP service, and manage its API keys."""

import logging
import os
import sys
from typing import Annotated

import typer

from deployments.service.keys import Keys, keys_required
from deployments.service.options import read_options
from naruto_core.access_control import is_loopback
from naruto_core.errors import NarutoError
from naruto_core.settings import read_settings

app = typer.Typer(
    name="naruto-service",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serves pictures over HTTP, for any client of OpenAI's images API. Settings: NARUTO_SERVICE_* variables.",
)
Name = Annotated[str, typer.Argument(help="Name of the key.")]


@app.command()
def serve() -> None:
    """Serve the runs of NARUTO_HOME at NARUTO_SERVICE_HOST (127.0.0.1) and NARUTO_SERVICE_PORT (8000)."""
    options = read_options()
    keys_required(_keys(), options.host)  # fails here, before anything is loaded or opened
    import uvicorn

    from deployments.service.app import create_app
    from deployments.service.server import server_config

    _log_as_json()
    os.environ.setdefault("OTEL_SERVICE_NAME", "naruto-service")
    config = server_config(
        create_app(read_settings(), options), request_seconds=options.request_seconds, host=options.host,
        port=options.port, timeout_graceful_shutdown=round(options.drain_seconds) + 1,
    )  # fmt: skip
    uvicorn.Server(config).run()


@app.command("add-key")
def add_key(name: Name) -> None:
    """Make a key and print it; it cannot be shown again."""
    first = not _keys().names()
    print(_keys().add(name))
    if first:
        print("A service that was started without keys requires none until it is restarted.", file=sys.stderr)


@app.command("remove-key")
def remove_key(name: Name) -> None:
    """Revoke a key."""
    _keys().remove(name)
    if not _keys().names():
        print("That was the last key: a service that requires keys rejects all requests now.", file=sys.stderr)


@app.command("keys")
def list_keys() -> None:
    """List the names of the keys, or say what it means that there is none."""
    print("\n".join(_keys().names()) or _without_keys(read_options().host))


def _without_keys(host: str) -> str:
    start = "starts without keys, for everybody on this machine" if is_loopback(host) else "does not start"
    return f"there is no key: a running service that requires keys rejects all requests, and one at {host} {start}"


def _keys() -> Keys:
    return Keys(read_settings().root / "service" / "keys.json")


def _log_as_json() -> None:
    from diffusers.utils import logging as diffusers_logging
    from pythonjsonlogger.json import JsonFormatter
    from transformers.utils import logging as transformers_logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter("{asctime}{levelname}{name}{message}", style="{"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for library in (diffusers_logging, transformers_logging):  # they write to stderr themselves, as plain text
        library.disable_default_handler()
        library.enable_propagation()
    logging.getLogger("httpx").setLevel(logging.WARNING)


def main() -> None:
    """The command line; a user's mistake is one sentence and exit status 1."""
    try:
        app()
    except NarutoError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
