"""Comparisons of two models by all metrics, distances between sets too: `naruto compare`, in the background.

It needs features and some ten seconds the first time, and networks that this process never loads. The command keeps its
results by content, so that the same comparison is answered at once later, also after a restart.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from dashboard.queries import runs
from naruto_core.artifacts import sha256_bytes
from naruto_core.domain import Variant
from naruto_core.settings import read_settings

_SECONDS = 600  # that one comparison may take
Model = tuple[str, Variant]


def comparison(first: Model, second: Model) -> list[dict[str, Any]] | str | None:
    """A row for each metric, as `naruto compare --json` prints them; a sentence where it failed; None until it ends."""
    future = _started(read_settings().database_url, first, second, _pictures(first), _pictures(second))
    return future.result() if future.done() else None


def _pictures(model: Model) -> str:
    """What changes with the pictures of a model."""
    return sha256_bytes(" ".join(sorted(sample.sha256 for sample in runs.samples_of(*model))).encode())


@lru_cache(maxsize=1)
def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1)  # one at a time: training runs on the same machine


@lru_cache(maxsize=256)
def _started(url: str, first: Model, second: Model, pictures: str, others: str) -> "Future[list[dict[str, Any]] | str]":
    del url, pictures, others  # the key of the cache only
    return _worker().submit(_compare, f"{first[0]}:{first[1].value}", f"{second[0]}:{second[1].value}")


def _compare(first: str, second: str) -> list[dict[str, Any]] | str:
    command = [sys.executable, "-m", "flows", "compare", first, second, "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - run ids of the database, and no shell
            command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"the comparison took longer than {_SECONDS} s; type `naruto compare {first} {second}`."
    if done.returncode:
        lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "the comparison failed without a message."
    return json.loads(done.stdout)
