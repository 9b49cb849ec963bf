"""Rows are read back as they were written, and once, even when several processes write them several times."""

import math
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from recorded import NOON, open_run, sample, score

from naruto_core.domain import (
    GENERATED,
    Adapter,
    DatasetVersion,
    FusedModel,
    PhaseRecord,
    PhaseSpeed,
    PlannedPhase,
    Prompt,
    PromptSuite,
    QuarantinedRecord,
    Run,
    RunState,
    StepRecord,
    Variant,
)
from naruto_core.errors import NotRecorded, RecipeInvalid
from naruto_core.store.database import open_store
from naruto_core.store.writes import Store

SUITE = PromptSuite(
    "konoha-v1",
    "5" * 64,
    (Prompt("kage", "a ninja in orange", "a ninja in orange", ("portrait", "report")), Prompt("b", "b", "b", ())),
    (7, 2**40),
)


def test_a_dataset_recorded_twice_is_there_once_with_what_was_left_out(store: Store, dataset: DatasetVersion) -> None:
    broken = [
        QuarantinedRecord("a.parquet", 4, "truncated", "ends after 12 bytes"),
        QuarantinedRecord("a.parquet", 9, "empty", ""),
    ]
    store.add_dataset(dataset, broken)
    store.add_dataset(dataset, [*broken, broken[0]])
    assert store.datasets() == [dataset]
    assert store.find_dataset(dataset.id) == dataset
    assert store.quarantined(dataset.id) == broken
    assert store.find_dataset("unknown") is None


def test_a_run_id_tells_date_profile_and_content(run: Run) -> None:
    assert run.id == "2026-11-23-mini-c26e"
    assert (run.state, run.started_at, run.finished_at) == (RunState.RUNNING, NOON, None)


def test_an_unfinished_run_is_continued_and_a_done_one_returned_as_it_is(store: Store, run: Run) -> None:
    later = NOON + timedelta(hours=1)
    store.fail_run(run.id, "the disk is full.", later)
    assert store.run(run.id) == replace(run, state=RunState.FAILED, failure="the disk is full.", finished_at=later)
    assert open_run(store, run.dataset_id, now=later) == run
    store.finish_run(run.id, later)
    done = replace(run, state=RunState.DONE, finished_at=later)
    assert open_run(store, run.dataset_id, now=later + timedelta(days=1)) == done
    store.fail_run(run.id, "too late", later + timedelta(days=1))
    store.finish_run(run.id, later + timedelta(days=1))
    assert store.run(run.id) == done


def test_another_recipe_is_another_run_even_when_four_digits_of_their_hashes_agree(store: Store, run: Run) -> None:
    first, second = (open_run(store, run.dataset_id, fingerprint=f"{number:064x}") for number in (204, 290))
    assert (first.id, second.id) == ("2026-11-23-mini-c13e", "2026-11-23-mini-c13e3")
    assert open_run(store, run.dataset_id, fingerprint=f"{290:064x}") == second


def test_a_run_needs_a_recorded_dataset(store: Store) -> None:
    with pytest.raises(NotRecorded, match="ingest it first"):
        open_run(store, "nowhere")
    with pytest.raises(NotRecorded, match="no run '2026'"):
        store.finish_run("2026", NOON)


def test_times_come_back_in_utc_and_a_time_without_a_zone_is_refused(store: Store, dataset: DatasetVersion) -> None:
    tokyo = datetime(2026, 11, 23, 21, 0, tzinfo=timezone(timedelta(hours=9)))
    open_run(store, dataset.id, now=tokyo)
    assert store.runs()[0].run.started_at == NOON
    assert store.runs()[0].run.started_at.utcoffset() == timedelta(0)
    with pytest.raises(Exception, match="without a zone"):
        open_run(store, dataset.id, "a" * 64, now=NOON.replace(tzinfo=None))


def test_adapter_and_fused_model_are_replaced_by_newer_ones(store: Store, run: Run) -> None:
    assert store.adapters(run.id) == []
    assert store.find_fused(run.id) is None
    for digest in ("1" * 64, "2" * 64):
        adapter = Adapter(run.id, "runs/x/adapter.safetensors", digest, 4, 500)
        fused = FusedModel(run.id, "runs/x/fused", digest, 1.0)
        store.add_adapters([adapter])
        store.add_fused(fused)
        assert store.adapters(run.id) == [adapter]
        assert store.find_fused(run.id) == fused


def test_pictures_of_a_replaced_adapter_are_deleted(store: Store, run: Run) -> None:
    adapter = Adapter(run.id, "runs/x/adapter.safetensors", "1" * 64, 4, 500)
    fused = FusedModel(run.id, "runs/x/fused", "1" * 64, 1.0)

    def drawn() -> set[Variant]:
        return {sample.variant for sample in store.samples(run.id)}

    store.add_adapters([adapter])
    store.add_fused(fused)
    store.add_samples([sample(run.id, 1, variant) for variant in GENERATED])
    store.add_scores([replace(score(run.id, 3.0), variant=variant) for variant in GENERATED])
    store.add_adapters([adapter])
    store.add_fused(fused)
    assert drawn() == set(GENERATED)
    store.add_fused(replace(fused, sha256="2" * 64))
    assert drawn() == {Variant.BASE, Variant.ADAPTED}
    store.add_adapters([replace(adapter, sha256="2" * 64)])
    assert drawn() == {Variant.BASE}
    assert [score.variant for score in store.scores(run.id)] == [Variant.BASE]
    assert store.find_fused(run.id) is None


def test_samples_recorded_twice_are_there_once(store: Store, run: Run) -> None:
    drawn = [sample(run.id, number, variant) for variant in (Variant.ADAPTED, Variant.BASE) for number in range(3)]
    store.add_samples(drawn)
    store.add_samples([*drawn, drawn[0]])
    store.add_samples([])
    assert store.samples(run.id) == drawn
    assert store.samples(run.id, Variant.BASE) == drawn[3:]


def test_a_picture_that_is_drawn_again_replaces_the_old_one_and_its_scores(store: Store, run: Run) -> None:
    old, other = sample(run.id, 0), sample(run.id, 1)
    store.add_samples([old, other])
    store.add_scores([score(run.id, 0.3, sample_id=old.id), score(run.id, 0.4, sample_id=other.id)])
    new = replace(old, id="new", path="runs/x/samples/new.png", sha256="9" * 64)
    store.add_samples([new, other])
    assert store.samples(run.id) == [new, other]
    assert [score.sample_id for score in store.scores(run.id)] == [other.id]


def test_a_score_measured_again_replaces_the_old_one_and_no_other(store: Store, run: Run) -> None:
    store.add_samples([sample(run.id, 0)])
    picture = score(run.id, 0.3, sample_id=sample(run.id, 0).id)
    store.add_scores([score(run.id, 270.0), score(run.id, 90.0, extractor="inception"), picture])
    store.add_scores([score(run.id, 87.0)])
    assert store.scores(run.id) == [score(run.id, 90.0, extractor="inception"), score(run.id, 87.0), picture]
    with pytest.raises(ValueError, match=r"fid of .* is nan"):
        store.add_scores([score(run.id, math.nan)])


def test_scores_measured_again_with_the_same_values_are_not_written_again(store: Store, run: Run) -> None:
    unknown = replace(score(run.id, 87.0), low=-math.inf, high=math.inf, details={"auc": 0.1 + 0.2, "suite": "x"})
    scores = [unknown, score(run.id, 90.0, extractor="inception")]
    store.add_scores(scores)
    before = store.runs_version()
    store.add_scores(scores)
    assert store.runs_version() == before
    store.add_scores([replace(unknown, details={"auc": 0.3, "suite": "x"}), scores[1]])
    assert store.runs_version() != before
    assert {s.details.get("auc") for s in store.scores(run.id)} == {0.3, None}


def test_training_steps_of_a_resumed_run_are_there_once(store: Store, run: Run) -> None:
    steps = [StepRecord(step, 0.5 / step, 1.0, {"d": 0.003}) for step in range(1, 1200)]
    store.add_steps(run.id, steps)
    store.add_steps(run.id, steps[900:])
    assert store.steps(run.id) == steps


def test_a_diverged_training_is_recorded_as_it_was(store: Store, run: Run) -> None:
    store.add_steps(run.id, [StepRecord(1, math.nan, 1.0, {"grad_norm": math.inf, "d": 0.5})])
    (step,) = store.steps(run.id)
    assert math.isnan(step.loss)
    assert math.isnan(step.gauges["grad_norm"])
    assert step.gauges["d"] == 0.5


def test_a_run_refers_to_the_suite_it_was_drawn_with(store: Store, run: Run) -> None:
    assert store.prompts(run.id) is None
    store.add_prompts(run.id, SUITE)
    store.add_prompts(run.id, SUITE)
    assert store.prompts(run.id) == SUITE


def test_an_edited_suite_is_refused_once_pictures_are_drawn(store: Store, run: Run) -> None:
    edited = replace(SUITE, fingerprint="6" * 64, prompts=SUITE.prompts[:1])
    store.add_prompts(run.id, SUITE)
    store.add_prompts(run.id, edited)
    store.add_samples([sample(run.id, 0)])
    with pytest.raises(RecipeInvalid, match="never edited"):
        store.add_prompts(run.id, SUITE)
    assert store.prompts(run.id) == edited


def test_two_processes_that_open_and_write_at_once_make_one_database_and_lose_nothing(url: str) -> None:
    program = """
import sys
from datetime import UTC, datetime
from naruto_core.domain import DatasetVersion, Sample, StepRecord, Variant
from naruto_core.store.database import open_store
url, variant = sys.argv[1:]
with open_store(url) as store:
    store.add_dataset(DatasetVersion("d", "toons", "datasets/toons", 0, 9, 0, 0, 0), [])
    run = store.open_run(profile="mini", recipe_json="{}", fingerprint="f", dataset_id="d", git_commit="",
                         now=datetime(2026, 11, 23, tzinfo=UTC))
    for n in range(60):
        store.add_samples([Sample(f"{variant}{n}", run.id, Variant(variant), "kage", n, "p", "0")])
        store.add_steps(run.id, [StepRecord(n, 0.1, 1.0)])
"""
    command = [sys.executable, "-c", program, url]
    writers = [subprocess.Popen([*command, who], stderr=subprocess.PIPE, text=True) for who in ("base", "fused")]
    assert [writer.communicate(timeout=120)[1] for writer in writers] == ["", ""]
    with open_store(url) as store:
        (summary,) = store.runs()
        assert len(store.samples(summary.run.id)) == 120
        assert len(store.steps(summary.run.id)) == 60


def test_a_kill_in_the_middle_of_add_samples_leaves_nothing_of_it(store: Store, run: Run, url: str) -> None:
    program = """
import os, signal, sys
from sqlalchemy import event
from naruto_core.domain import Sample, Variant
from naruto_core.store.database import open_store
url, run_id = sys.argv[1:]
store = open_store(url)
@event.listens_for(store._engine, "commit")  # all rows are inserted, and the transaction is about to end
def kill(connection):
    os.kill(os.getpid(), signal.SIGKILL)
store.add_samples([Sample(str(n), run_id, Variant.BASE, "kage", n, "p", "0") for n in range(5000)])
"""
    store.add_samples([sample(run.id, 0)])
    killed = subprocess.run([sys.executable, "-c", program, url, run.id], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    with open_store(url) as again:
        assert again.samples(run.id) == [sample(run.id, 0)]
        again.add_samples([sample(run.id, 1)])


def test_the_times_of_a_phase_add_up_and_later_plans_read_them(store: Store, run: Run, url: str) -> None:
    """Two programs may work on one run: the times of both are kept."""
    phase = PlannedPhase("samples", 88, "picture", 4.2e14, 3000.0, "published", "NVIDIA T4", "fp16", 13 * 2**30)
    other = replace(phase, phase="score")
    store.add_plan(run.id, [phase, other])

    def measure(_: int) -> None:
        with open_store(url) as other_process:
            for _ in range(4):
                other_process.add_phase_time(run.id, "samples", 10, 350.0, NOON)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(measure, range(2)))
    store.add_phase_time(run.id, "unknown", 1, 1.0, NOON)
    store.add_plan(run.id, [replace(phase, units=8), replace(other, units=176)])  # the run was stopped and goes on
    assert store.phases(run.id) == [PhaseRecord(phase, 80, 2800.0), PhaseRecord(replace(other, units=176))]
    assert store.phase_speeds("NVIDIA T4") == [PhaseSpeed("samples", "NVIDIA T4", "fp16", 4.2e14, 80, 2800.0)]
    assert store.phase_speeds("NVIDIA L4") == []
    store.add_phase_time(run.id, "score", 176, 30.0, NOON, processes=4)
    assert store.phases(run.id)[1] == PhaseRecord(replace(other, units=176), 176, 30.0, 4)
    assert [speed.phase for speed in store.phase_speeds("NVIDIA T4")] == ["samples"], "no speed of one device"
