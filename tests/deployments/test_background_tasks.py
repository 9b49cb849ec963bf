"""What runs beside the routes of the service goes on after an error that passes."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.service import app
from naruto_core.errors import RecordDamaged

Loop = Callable[[Any], Awaitable[None]]


@pytest.mark.parametrize("error", [RecordDamaged("its file is damaged"), PermissionError("not now")])
@pytest.mark.parametrize("loop", [app._warm_up, app._delete_expired_images, app._supervise_quality_worker])
def test_a_background_task_of_the_service_tries_again_after_an_error(
    loop: Loop, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fails_once(*_: object) -> SimpleNamespace:
        asked.append(1)
        if len(asked) == 1:
            raise error
        return SimpleNamespace(name="champion")

    async def drawn(*_: object) -> bool:
        return True

    sleep = asyncio.sleep
    monkeypatch.setattr(app.asyncio, "sleep", lambda _: sleep(0))
    monkeypatch.setattr(app, "_draw_one_step", drawn)
    state = SimpleNamespace(
        ready=False, registry=SimpleNamespace(spec=fails_once), image_files=SimpleNamespace(delete_expired=fails_once),
        quality_worker=SimpleNamespace(ensure_running=fails_once), metrics=SimpleNamespace(set_drifts=lambda _: None),
        served_scores=SimpleNamespace(drifts=list),
    )  # fmt: skip

    async def until_it_tries_again() -> None:
        task = asyncio.ensure_future(loop(state))
        while len(asked) < 2 and not task.done():
            await sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(until_it_tries_again())
    assert len(asked) > 1
