"""Flow `watch`: measure what the HTTP service gave out, and say whether it has drifted from what was promoted."""

import os
import time
from typing import Annotated

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from naruto_core.errors import NarutoError
from tasks.drift import Ruler, compare_served, measure_served, tell
from tasks.progress import say

_SECONDS, _PATIENCE = 5.0, 300.0  # between looks; after something that will not be otherwise at once

Days = Annotated[float, Field(gt=0, description="How far back served pictures are looked at.")]


@flow(name="watch", result_serializer="json", task_runner=ThreadPoolTaskRunner(max_workers=1))
def watch(days: Days = 1.0) -> list[str]:
    """A sentence for each run and metric; of what has drifted an event tells, too."""
    measure_served()
    return tell(compare_served(days))


def follow(pid: int | None) -> None:
    """Measure what is served as it comes, without a flow run for each look; for as long as process `pid` lives."""
    rulers: dict[str, Ruler] = {}
    while pid is None or _alive(pid):
        wait = _SECONDS
        try:
            measure_served.fn(rulers)
        except NarutoError as error:
            say(f"nothing is measured: {error}")
            wait = _PATIENCE
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
