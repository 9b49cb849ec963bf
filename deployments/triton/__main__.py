"""`python -m deployments.triton REPOSITORY`: serve what `naruto export triton` wrote, until Ctrl-C."""

import argparse
import os
import sys
from pathlib import Path

from deployments.triton.server import Ports, find_server
from naruto_core.access_control import is_loopback
from naruto_core.errors import NarutoError, ServiceFailed


def main() -> None:
    """Become the server; a user's mistake is one sentence and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m deployments.triton", description=__doc__)
    parser.add_argument("repository", metavar="REPOSITORY", type=Path, help="The folder that the export printed.")
    parser.add_argument("--address", default="127.0.0.1", help="Where to listen; this machine only by default.")
    parser.add_argument(
        "--without-keys", action="store_true", help="Needed with another --address: Triton asks nobody for a key."
    )
    for name in ("http", "grpc", "metrics"):
        parser.add_argument(f"--{name}-port", type=int, default=getattr(Ports(), name))
    asked = parser.parse_args()
    ports = Ports(asked.http_port, asked.grpc_port, asked.metrics_port)
    try:
        if not is_loopback(asked.address) and not asked.without_keys:
            raise ServiceFailed(
                f"Triton asks nobody for a key, and {asked.address or 'every address'} is reached from elsewhere: add "
                "--without-keys if something else, such as a proxy, decides who may ask."
            )
        server = find_server()
    except NarutoError as error:
        print(f"naruto: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    command = server.command(asked.repository, asked.address, ports)
    os.execve(command[0], command, server.environment)  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main()
