"""Flow `watch`: whether the promoted run's model has changed, and whether served pictures drift from its samples."""

import os
import time
from typing import Annotated

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from naruto_core.errors import NarutoError
from tasks.canary import check_canaries
from tasks.drift import RunExtractors, compare_served, measure_served, report_drift
from tasks.progress import say

_INTERVAL, _INTERVAL_AFTER_ERROR = 5.0, 300.0  # seconds

Days = Annotated[float, Field(gt=0)]


@flow(name="watch", result_serializer="json", task_runner=ThreadPoolTaskRunner(max_workers=1))
def watch(days: Days = 1.0) -> list[str]:
    """A sentence for each run and metric; a changed model and each metric that has drifted also send an event.

    Args:
        days: Served pictures of so many days are compared.
    """
    measure_served()
    changes = check_canaries()
    return [*changes, *report_drift(compare_served(days))]


def follow(pid: int | None) -> None:
    """Measure served pictures as they arrive, without a flow run each time, while process `pid` lives."""
    extractors: dict[str, RunExtractors] = {}
    while pid is None or _alive(pid):
        wait = _INTERVAL
        try:
            measure_served.fn(extractors)
        except NarutoError as error:
            say(f"nothing is measured: {error}")
            wait = _INTERVAL_AFTER_ERROR
        until = time.monotonic() + wait
        while time.monotonic() < until and (pid is None or _alive(pid)):
            time.sleep(1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
