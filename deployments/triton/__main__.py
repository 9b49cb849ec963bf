"""`python -m deployments.triton REPOSITORY`: serve the folder that `naruto export triton` wrote, until Ctrl-C."""

import argparse
import os
import sys
from pathlib import Path

from deployments.triton.server import Ports, find_server
from naruto_core.access_control import is_loopback
from naruto_core.errors import NarutoError, ServiceFailed


def main() -> None:
    """Replace this process by the server; a user's mistake is one sentence and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m deployments.triton", description=__doc__)
    parser.add_argument("repository", metavar="REPOSITORY", type=Path, help="The folder that the export printed.")
    parser.add_argument("--address", default="127.0.0.1", help="Address to listen at; by default this machine only.")
    parser.add_argument(
        "--without-keys",
        action="store_true",
        help="Required with another --address: Triton checks no keys.",
    )
    for name in ("http", "grpc", "metrics"):
        parser.add_argument(f"--{name}-port", type=int, default=getattr(Ports(), name))
    arguments = parser.parse_args()
    ports = Ports(arguments.http_port, arguments.grpc_port, arguments.metrics_port)
    try:
        if not is_loopback(arguments.address) and not arguments.without_keys:
            raise ServiceFailed(
                f"Triton checks no keys, and {arguments.address or 'every address'} is reached from other machines: "
                "add --without-keys if something else, such as a proxy, controls the access."
            )
        server = find_server()
    except NarutoError as error:
        print(f"naruto: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    command = server.command(arguments.repository, arguments.address, ports)
    os.execve(command[0], command, server.environment)  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main()
