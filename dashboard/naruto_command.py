"""The `naruto` command in a process of its own, for what needs networks or Prefect: the dashboard loads neither."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from naruto_core.errors import ServiceFailed

_SECONDS = 600  # that one command may take
Result = TypeVar("Result")


def run_naruto(*arguments: str) -> str:
    """Run `naruto` with `arguments` and return what it prints. Raises ServiceFailed with its message where it fails."""
    command = [sys.executable, "-m", "flows", *arguments]
    threads = {} if arguments[0] == "plan" else {"OMP_NUM_THREADS": "1"}  # a plan counts the threads of a run
    try:
        done = subprocess.run(  # noqa: S603 - no shell; values are in one argument with the name of their option
            command, capture_output=True, text=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL,
            env=os.environ | threads,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        typed = shlex.join(("naruto", *arguments))
        raise ServiceFailed(f"it took longer than {_SECONDS} s; type `{typed}` in a terminal.") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines()
        raise ServiceFailed(lines[-1].removeprefix("naruto: ") if lines else "the command failed without a message.")
    return done.stdout


def in_background(function: Callable[..., Result], *values: object) -> "Future[Result]":
    """Call `function`, which runs a command, in a thread; one at a time, because training uses the same machine."""
    return _worker().submit(function, *values)


@lru_cache(maxsize=1)
def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1)
