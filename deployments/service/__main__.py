"""`naruto-service`: start the HTTP service, and give out its keys."""

import logging
import os
import sys
from typing import Annotated

import typer

from deployments.service.keys import Keys, keys_needed
from deployments.service.options import ServiceOptions
from naruto_core.access_control import is_loopback
from naruto_core.errors import NarutoError
from naruto_core.settings import read_settings

app = typer.Typer(
    name="naruto-service",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Pictures over HTTP, for any client of OpenAI's images API. Limits: NARUTO_SERVICE_* variables.",
)
Name = Annotated[str, typer.Argument(help="Whose key it is.")]


@app.command()
def serve() -> None:
    """Serve the runs of NARUTO_HOME at NARUTO_SERVICE_HOST (127.0.0.1) and NARUTO_SERVICE_PORT (8000)."""
    options = ServiceOptions()
    keys_needed(_keys(), options.host)  # refused here, before anything is loaded or opened
    import uvicorn

    from deployments.service.app import create_app

    _log_as_json()
    os.environ.setdefault("OTEL_SERVICE_NAME", "naruto-service")
    config = uvicorn.Config(
        create_app(read_settings(), options), host=options.host, port=options.port, log_config=None,
        access_log=False, server_header=False, timeout_graceful_shutdown=round(options.drain_seconds) + 1,
    )  # fmt: skip
    uvicorn.Server(config).run()


@app.command("add-key")
def add_key(name: Name) -> None:
    """Make a key and show it, this once."""
    had_none = not _keys().names()
    print(_keys().add(name))
    if had_none:
        print("A service that was started without keys stays open until it is started again.", file=sys.stderr)


@app.command("remove-key")
def remove_key(name: Name) -> None:
    """Make a key worthless."""
    _keys().remove(name)
    if not _keys().names():
        print("That was the last key: a service that asks for keys lets nobody in now.", file=sys.stderr)


@app.command("keys")
def list_keys() -> None:
    """Who has a key, and what it means when nobody has one."""
    print("\n".join(_keys().names()) or _without_keys(ServiceOptions().host))


def _without_keys(host: str) -> str:
    start = "starts open to everybody on this machine" if is_loopback(host) else "does not start"
    return f"nobody has a key: a service that asks for keys lets nobody in, and one at {host} {start}"


def _keys() -> Keys:
    return Keys(read_settings().root / "service" / "keys.json")


def _log_as_json() -> None:
    from diffusers.utils import logging as of_diffusers
    from pythonjsonlogger.json import JsonFormatter
    from transformers.utils import logging as of_transformers

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter("{asctime}{levelname}{name}{message}", style="{"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for library in (of_diffusers, of_transformers):  # they write to stderr themselves, as plain text
        library.disable_default_handler()
        library.enable_propagation()
    logging.getLogger("httpx").setLevel(logging.WARNING)


def main() -> None:
    """The command; a mistake of the user's is one sentence."""
    try:
        app()
    except NarutoError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
