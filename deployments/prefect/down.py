"""`make down`: stops the worker, its flow runs and the Prefect server that `make up` started."""

import sys

from deployments.prefect.daemon import one_at_a_time
from deployments.prefect.local import read_local_prefect
from naruto_core.errors import NarutoError


def main() -> None:
    """Stop what runs, worker first, and say what was stopped."""
    try:
        local = read_local_prefect()
        with one_at_a_time(local.folder / "up.lock"):
            stopped = {daemon.name: daemon.stop() for daemon in (local.worker, local.server)}
    except NarutoError as error:
        sys.exit(f"error: {error}")
    for name, pid in stopped.items():
        print(f"Prefect {name} was not running." if pid is None else f"stopped the Prefect {name} (process {pid}).")


if __name__ == "__main__":
    main()
