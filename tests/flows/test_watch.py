"""Served pictures are measured as the run's own samples were, and what has drifted is said."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from deployments.service.quality_worker import QualitySampler
from naruto_core.artifacts import Layout, sha256_bytes
from naruto_core.domain import DatasetVersion, Prompt, PromptSuite, Sample, Score, Variant
from naruto_core.scoring.findings import MODEL_CHANGE
from naruto_core.serving import DriftVerdict, ServedScore
from naruto_core.store.database import open_database, open_store
from naruto_core.store.promotions import CHAMPION
from tasks.context import task_context
from tasks.drift import _run_extractors
from tests.deployments.serving import serving
from tests.flows.conftest import Naruto
from tests.preloaded import Preloaded

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def served_run(small_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    home = tmp_path_factory.mktemp("watched") / "home"
    shutil.copytree(small_run[0], home)
    return home, small_run[1]


def url(home: Path) -> str:
    return f"sqlite:///{home / 'naruto.db'}"


def measured(home: Path) -> list[ServedScore]:
    with open_database(url(home)).served_scores as served:
        return served.scores(LONG_AGO)


def test_a_served_picture_scores_as_the_same_sample_did_and_leaves_neither_picture_nor_prompt(
    served_run: tuple[Path, str], capfd: pytest.CaptureFixture[str]
) -> None:
    home, run_id = served_run
    with open_store(url(home)) as store:
        suite = store.prompts(run_id)
        samples = {s.id: s for s in store.samples(run_id, Variant.ADAPTED)}
        own = {(s.metric, samples[s.sample_id].prompt, samples[s.sample_id].seed): s.value
               for s in store.scores(run_id) if s.sample_id in samples}  # fmt: skip
    assert suite
    prompt, seed = suite.prompts[0], suite.seeds[0]
    with serving(home, watched_share=1.0) as service:
        for fields in ({}, {"steps": 1}, {"model": "base"}, {"size": "32x32"}, {"guidance": 1.0}):
            assert service.ask(prompt=prompt.text, seed=seed, **fields).status_code == 200
        deadline = time.monotonic() + 240  # a process of low priority loads its packages first
        while time.monotonic() < deadline and (not measured(home) or [*Layout(home).watched.glob("*.png")]):
            time.sleep(0.2)
    found = {one.metric: one for one in measured(home)}
    assert len(measured(home)) == len(found) == 3  # only the first was drawn as the samples were
    for metric, score in found.items():
        assert score.value == pytest.approx(own[metric, prompt.slug, seed], abs=1e-5)
    assert not [*Layout(home).watched.iterdir()]
    assert "naruto: " not in capfd.readouterr().err  # what the worker prints goes through the service's log
    assert all(prompt.text not in str(one) for one in measured(home))


def test_what_cannot_be_measured_is_left_out_with_a_word_and_the_rest_is_measured(
    served_run: tuple[Path, str], naruto: Naruto
) -> None:
    home, run_id = served_run
    before, folder = len(measured(home)), Layout(home).watched
    picture = Image.new("RGB", (64, 64), "black")
    sampler = QualitySampler(folder, 1.0, b"key")
    sampler.save(picture, "2026-01-01-mini-0000", "a cat")
    sampler.save(picture, run_id, "a cat")
    (folder / "broken.png").write_bytes(b"no picture")
    ended = naruto(home, "watch")
    assert ended.returncode == 0
    assert ended.stderr.count("cannot be measured") == 2
    fresh = measured(home)[before:]
    assert {one.metric for one in fresh} == {"clip", "style", "blank"}
    assert next(one.value for one in fresh if one.metric == "blank") == 1
    assert not [*folder.iterdir()]
    assert "undecided" in ended.stderr  # of so few prompts nothing can be said


def test_a_run_that_was_never_scored_keeps_no_other_from_being_measured(
    served_run: tuple[Path, str], naruto: Naruto
) -> None:
    home, run_id = served_run
    with open_store(url(home)) as store:
        bare = store.open_run(
            profile="aaa", recipe_json="{}", fingerprint="f", dataset_id=store.run(run_id).dataset_id, git_commit="",
            now=LONG_AGO,
        )  # fmt: skip
    before, sampler = len(measured(home)), QualitySampler(Layout(home).watched, 1.0, b"key")
    for run in (bare.id, run_id):
        sampler.save(Image.new("RGB", (64, 64), "red"), run, "a dog")
    ended = naruto(home, "watch")
    assert "has no samples yet" in ended.stderr
    assert {one.run_id for one in measured(home)[before:]} == {run_id}
    assert not [*Layout(home).watched.iterdir()]


def test_runs_that_were_measured_by_one_network_share_it(
    served_run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARUTO_HOME", str(served_run[0]))
    with task_context() as context:
        first = _run_extractors(context, served_run[1], [])
        second = _run_extractors(context, served_run[1], [first])
    assert second.sets is first.sets is second.pairs


def test_a_full_disk_is_logged_and_does_not_fail_the_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    QualitySampler(tmp_path / "file" / "watched", 1.0, b"key").save(Image.new("RGB", (8, 8)), "run", "a cat")
    assert "could not be saved for quality measurement" in caplog.text


def test_a_process_to_follow_goes_with_following(tmp_path: Path, naruto: Naruto) -> None:
    ended = naruto(tmp_path, "watch", "--pid", "1")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "add --follow" in ended.stderr


def test_the_canary_tells_a_changed_model_from_the_wishes_of_people(
    small_run: tuple[Path, str], tmp_path: Path, naruto: Naruto, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run_id = tmp_path / "home", small_run[1]
    shutil.copytree(small_run[0], home)
    with open_database(url(home)).ratings as ratings:
        ratings.promote(
            CHAMPION, run_id, "me", "a test", LONG_AGO, {}, Layout(home), accept_warnings=run_id
        )  # fmt: skip
    monkeypatch.setenv("NARUTO_CANARY_PICTURES", "2")
    assert f"{run_id}: the model is steady: 2 canary pictures differ" in naruto(home, "watch").stderr
    with open_store(url(home)) as store:
        path = home / store.adapters(run_id)[0].path
    tensors = load_file(path)
    save_file({key: tensor + (0.2 if ".lora_B." in key else 0) for key, tensor in tensors.items()}, path)
    assert "the model has changed: 2 of 2 canary pictures" in naruto(home, "watch").stderr
    with open_store(url(home)) as store:
        assert next(finding for finding in store.findings(run_id) if finding.name == MODEL_CHANGE).warning
    path.unlink()
    gone = naruto(home, "watch")
    assert (gone.returncode, gone.stderr.count("canary pictures cannot be compared")) == (0, 1)


@pytest.fixture
def scored(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A run of 12 prompts, and as many that were served: clip has fallen, style has not."""
    with open_store(url(tmp_path)) as store:
        store.add_dataset(DatasetVersion("d1", "world:naruto", "datasets/w", 0, 80, 20, 0, 0), [])
        run = store.open_run(
            profile="mini",
            recipe_json="{}",
            fingerprint=sha256_bytes(bytes(tmp_path)),
            dataset_id="d1",
            git_commit="",
            now=LONG_AGO,
        )
        prompts = tuple(Prompt(f"p{n}", f"text {n}", f"text {n}", ()) for n in range(12))
        store.add_prompts(run.id, PromptSuite("s", "f" * 64, prompts, (1,)))
        store.add_samples(
            [Sample(p.slug, run.id, Variant.ADAPTED, p.slug, 1, f"{p.slug}.png", "0" * 64) for p in prompts]
        )
        values = {"clip": 0.7, "style": 0.6}
        store.add_scores(
            [
                Score(run.id, metric, Variant.ADAPTED, v, v, v, 1, "judge", "1", sample_id=f"p{n}")
                for metric, value in values.items()
                for n in range(12)
                for v in [value + n % 4 / 100]
            ]
        )
        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        with open_database(url(tmp_path)).served_scores as served:
            served.add_scores(
                [
                    ServedScore(f"{n}", run.id, f"asked{n}", an_hour_ago, metric, value + n % 4 / 100, "judge")
                    for metric, value in (("clip", 0.5), ("style", 0.6), ("blank", 0))
                    for n in range(400)
                ]
            )
        yield tmp_path, run.id


def test_a_fallen_score_has_drifted_and_the_same_score_is_steady(scored: tuple[Path, str], naruto: Naruto) -> None:
    home, run_id = scored
    ended = naruto(home, "watch")
    assert ended.returncode == 0, ended.stderr
    with open_database(url(home)).served_scores as served:
        said = {one.metric: one for one in served.drifts()}
    assert said["clip"].verdict is DriftVerdict.DRIFTED
    assert said["clip"].difference == pytest.approx(-0.2, abs=0.01)
    assert said["clip"].low < said["clip"].difference < said["clip"].high < 0
    assert said["style"].verdict is not DriftVerdict.DRIFTED
    assert f"{run_id} clip: served 0.515, its own samples 0.715, difference -0.200" in ended.stderr
    assert "blank: no served picture was measured like the run's own samples" in ended.stderr


def test_pictures_by_another_extractor_are_not_compared(scored: tuple[Path, str], naruto: Naruto) -> None:
    home, run_id = scored
    with open_database(url(home)).served_scores as served:
        served.add_scores([ServedScore("x", run_id, "x", datetime.now(UTC), "clip", -100.0, "another judge")])
    naruto(home, "watch")
    with open_database(url(home)).served_scores as served:
        said = next(one for one in served.drifts() if one.metric == "clip")
    assert (said.n_served, said.extractor) == (400, "judge")


def test_an_event_tells_prefect_what_has_drifted(scored: tuple[Path, str], naruto: Naruto) -> None:
    from prefect.settings import PREFECT_API_URL

    home, run_id = scored
    naruto(home, "watch")
    asked = {"filter": {"event": {"name": ["naruto.quality.drifted"]}, "resource": {"id": [f"naruto.run.{run_id}"]}}}
    deadline, told = time.monotonic() + 120, []
    while not told and time.monotonic() < deadline:  # events are sent behind the flow's back
        time.sleep(0.2)
        told = httpx2.post(f"{PREFECT_API_URL.value()}/events/filter", json=asked).json()["events"]
    assert [event["payload"]["metric"] for event in told] == ["clip"]
    assert "drifted" in told[0]["payload"]["sentence"]


def test_following_ends_with_the_process_it_follows(
    programs: Preloaded, environment: dict[str, str], tmp_path: Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as watched:
        command = "flows", "watch", "--follow", "--pid", str(watched.pid)
        follower = programs.start(*command, environment=environment | {"NARUTO_HOME": str(tmp_path)})
        time.sleep(2)
        assert follower.poll() is None
        watched.send_signal(signal.SIGKILL)
        watched.wait()
        assert follower.wait(30) == 0


def test_no_more_pictures_wait_than_a_disk_can_bear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.service.quality_worker._MAX_WAITING", 3)
    sampler = QualitySampler(tmp_path, 1.0, b"key")
    for n in range(5):
        sampler.save(Image.new("RGB", (8, 8)), "run", f"prompt {n % 2}")
    marks = [json.loads(Image.open(path).info["naruto"])["asked"] for path in tmp_path.iterdir()]
    assert len(marks) == 3
    assert len(set(marks)) == 2
