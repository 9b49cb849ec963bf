"""A service in a thread, with two finished runs of the miniature, called over real HTTP."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import uvicorn

from deployments.service.app import create_app
from deployments.service.options import ServiceOptions
from deployments.service.server import server_config
from deployments.service.state import ServiceState
from naruto_core.domain import Adapter, Score, Variant
from naruto_core.settings import Settings
from tests.tasks.recorded_run import Recorded, recorded_run

CHANGES = {"generation.mixed_precision": "bf16", "generation.batch_size": 4}


@dataclass(frozen=True)
class Runs:
    """A home with two finished runs on one base."""

    home: Path
    first: str
    second: str
    recorded: Recorded


@contextmanager
def two_runs(home: Path) -> Iterator[Runs]:
    """The second run has the first one's adapter at half its scale."""
    with recorded_run(home, CHANGES, drawn=False) as recorded:
        store, recipe = recorded.store, recorded.recipe
        weaker = recipe.model_copy(update={"fusion": recipe.fusion.model_copy(update={"lora_scale": 0.5})})
        second = store.open_run(
            profile="mini", recipe_json=weaker.model_dump_json(), fingerprint=weaker.fingerprint,
            dataset_id="ds-1", git_commit="", now=datetime(2026, 11, 22, tzinfo=UTC),
        )  # fmt: skip
        (adapter,) = recorded.adapters
        path = recorded.layout.adapter(second.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((home / adapter.path).read_bytes())
        relative = recorded.layout.relative(path)
        store.add_adapters([Adapter(second.id, relative, adapter.sha256, adapter.rank, adapter.steps)])
        for run in (recorded.run, second):
            store.add_scores([Score(run.id, "clip", Variant.ADAPTED, 0.7, 0.6, 0.8, 4, "judge:abc", "1", "")])
            store.finish_run(run.id, datetime.now(UTC))
        yield Runs(home, recorded.run.id, second.id, recorded)


@dataclass(frozen=True)
class Serving:
    """A running service: its URL and its state."""

    url: str
    state: ServiceState

    def ask(self, wait: float = 60, **fields: object) -> httpx2.Response:
        return httpx2.post(f"{self.url}/v1/images/generations", json=fields, timeout=wait)


@contextmanager
def serving(home: Path, **options: object) -> Iterator[Serving]:
    """Run it until the block ends; then shut it down as SIGTERM does."""
    port = free_port()
    options = {"watched_share": 0.0} | options
    app = create_app(Settings(home=home, device="cpu"), ServiceOptions(port=port, **options))  # type: ignore[arg-type]
    server = uvicorn.Server(server_config(app, request_seconds=60, port=port))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        running = Serving(f"http://127.0.0.1:{port}", app.state.service)
        wait_until_ready(running.url)
        yield running
    finally:
        server.should_exit = True
        thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(url: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx2.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.1)
    raise TimeoutError(url)
