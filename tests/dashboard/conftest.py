"""A NARUTO_HOME with a store in it, and one finished run with real pictures."""

import io
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from browsing import browser
from PIL import Image
from playwright.sync_api import Browser
from safetensors.numpy import save
from served import Served, dashboards, free_port
from streamlit import config
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from dashboard import access
from naruto_core.artifacts import Layout, sha256_bytes, write_atomically
from naruto_core.domain import GENERATED, Adapter, DatasetVersion, Prompt, PromptSuite, Run, Sample, Score, Variant
from naruto_core.settings import read_settings
from naruto_core.store.database import Ratings, open_database, open_store
from naruto_core.store.writes import Store
from tests.preloaded import Preloaded

HOSTILE = "![x](https://example.org/x.png) <script>alert(1)</script> **bold** :red[hi] $a^2$"
PROMPTS = (
    Prompt("kage", "a ninja in orange", "a ninja in orange", ("portrait",)),
    Prompt("hostile", HOSTILE, HOSTILE, ("action",)),
)
START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session", autouse=True)
def _components_are_looked_for_once() -> Iterator[None]:
    """A server looks through all packages for components when it starts; AppTest at each run, in 0.5 s of CPU."""
    with pytest.MonkeyPatch.context() as patch:
        scan = manifest_scanner.scan_component_manifests
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(scan))
        yield


@pytest.fixture(autouse=True)
def _a_page_that_raises_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest keeps what a page raised: people see an error page, and a test that asks for the title alone passes."""
    run = AppTest._run

    def checked(app: AppTest, *given: Any, **options: Any) -> AppTest:
        ran = run(app, *given, **options)
        assert [f"{raised.message} {raised.stack_trace}" for raised in ran.exception] == []
        return ran

    monkeypatch.setattr(AppTest, "_run", checked)


@pytest.fixture(autouse=True)
def main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore `__main__`, which AppTest replaces by its script and process pools of later tests need."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(autouse=True)
def on_this_machine() -> Iterator[None]:
    """Listen on this machine only, as `make dashboard` does; Streamlit's default is every address."""
    config.set_option("server.address", "127.0.0.1")
    yield
    config.set_option("server.address", None)


@pytest.fixture(autouse=True)
def link(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Open the dashboard with the token of a personal link ("" at first); AppTest has no cookies."""

    def open_link(token: str) -> None:
        monkeypatch.setattr(access, "credentials", lambda: (token, ""))

    open_link("")
    return open_link


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path))
    monkeypatch.delenv("NARUTO_DATABASE", raising=False)
    st.cache_data.clear()
    return tmp_path


@pytest.fixture
def store(home: Path, new_database: Path) -> Iterator[Store]:
    _copy_database(new_database, home)
    with open_store(read_settings().database_url) as store:
        yield store


@pytest.fixture
def train(store: Store, home: Path) -> Callable[..., None]:
    """Record an adapter file for a run, with a `weight` in it."""

    def train(run_id: str, weight: float = 1.0) -> None:
        path = Layout(home).adapter(run_id)
        data = save({"lora": np.array([0.5, weight], np.float32)})
        write_atomically(path, data)
        store.add_adapters([Adapter(run_id, Layout(home).relative(path), sha256_bytes(data), 4, 10)])

    return train


@pytest.fixture
def run(store: Store, home: Path, train: Callable[..., None]) -> Run:
    """Two prompts, seeds 7 and 8, three variants, and FID by two extractors."""
    store.add_dataset(DatasetVersion("d1", "world:ninja", "datasets/world", 0, 80, 20, 0, 0), [])
    run = store.open_run(profile="mini", recipe_json="{}", fingerprint="f1", dataset_id="d1", git_commit="", now=START)
    store.add_prompts(run.id, PromptSuite("tiny-v1", "s1", PROMPTS, (7, 8)))
    store.add_samples([_draw(Layout(home), run.id, v, p, seed) for v in GENERATED for p in PROMPTS for seed in (7, 8)])
    store.add_scores(
        [
            Score(
                run.id, "fid", Variant.BASE, 272.4, 260.0, 281.0, 40, "judge:abc", "1.9", "d1:reference", "jackknife"
            ),
            Score(run.id, "fid", Variant.FUSED, 87.25, 80.0, 95.5, 40, "judge:abc", "1.9", "d1:reference", "jackknife"),
            Score(run.id, "fid", Variant.BASE, 11.0, 10.0, 12.0, 40, "inception", "1.9", "d1:reference", "jackknife"),
        ]
    )
    train(run.id)
    store.finish_run(run.id, START.replace(minute=4, second=5))
    return store.run(run.id)


@pytest.fixture
def ratings(home: Path, new_database: Path) -> Iterator[Ratings]:
    _copy_database(new_database, home)
    with open_database(read_settings().database_url) as database:
        yield database.ratings


@pytest.fixture(scope="module")  # no longer: its event loop runs in this thread, and other tests start their own
def running_chrome() -> Iterator[Browser]:
    with browser() as chrome:
        yield chrome


@pytest.fixture
def chrome(running_chrome: Browser) -> Iterator[Browser]:
    """Its windows are closed after each test: they would ask a server that is gone. None shows an error page."""
    yield running_chrome
    raised = [page.url for context in running_chrome.contexts for page in context.pages
              if page.locator("[data-testid=stException]").count()]  # fmt: skip
    for context in running_chrome.contexts:
        context.close()
    assert raised == []


@pytest.fixture(scope="session")
def programs() -> Iterator[Preloaded]:
    with dashboards() as opened:
        yield opened


@pytest.fixture
def served(programs: Preloaded, home: Path) -> Iterator[Served]:
    server = Served(programs, home, free_port())
    server.start()
    yield server
    server.stop()


def _copy_database(new_database: Path, home: Path) -> None:
    if not (home / "naruto.db").exists():
        shutil.copyfile(new_database, home / "naruto.db")


def _draw(layout: Layout, run_id: str, variant: Variant, prompt: Prompt, seed: int) -> Sample:
    sample_id = f"{variant}-{prompt.slug}-{seed}"
    memory = io.BytesIO()
    Image.new("RGB", (8, 8), (seed * 20, len(variant) * 30, len(prompt.slug) * 20)).save(memory, "PNG")
    path = layout.sample(run_id, sample_id)
    write_atomically(path, memory.getvalue())
    digest = sha256_bytes(memory.getvalue())
    return Sample(sample_id, run_id, variant, prompt.slug, seed, layout.relative(path), digest)
