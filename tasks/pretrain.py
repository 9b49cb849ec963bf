"""Pretrain: the miniature's stages as tasks, its measurement and its shipping."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from naruto_core.artifacts import Layout, write_atomically
from naruto_core.dataset.preprocessing import prepare
from naruto_core.dataset.sources import open_source
from naruto_core.domain import Progress, QuarantinedRecord
from naruto_core.errors import DatasetUnusable, RecordDamaged
from naruto_core.mini.pretraining import evaluation, package, stages
from naruto_core.mini.pretraining.drawing import SIZE
from naruto_core.mini.pretraining.trainer import FitReport
from naruto_core.recipe_sections import DatasetSection
from naruto_core.settings import read_settings
from tasks.progress import reporter, say


def _fit_reporter() -> Callable[[FitReport], None]:
    tell, began = reporter(), time.monotonic()

    def on_report(fit: FitReport) -> None:
        spent = time.monotonic() - began
        note = "" if fit.loss is None else f"loss {fit.loss:.4f}"
        tell(Progress(fit.stage, fit.step, fit.steps, fit.unit, spent, fit.seconds_left, note))

    return on_report


@task(cache_policy=NO_CACHE)
def begin_pretraining(plan: stages.PretrainPlan, real: str | None) -> str:
    """The workspace of this plan, below NARUTO_HOME. Raises DatasetUnusable when `real` is no dataset."""
    if real:
        open_source(DatasetSection.model_validate({"source": real}))  # it is read at the end, hours later
    workspace = Layout(read_settings().root).cache("pretrain")
    stages.check_plan(workspace, plan)
    return str(workspace)


@task(cache_policy=NO_CACHE)
def train_tokenizers(workspace: str, prompts: list[str]) -> None:
    stages.train_tokenizers(Path(workspace), [*prompts, evaluation.NEGATIVE])


@task(cache_policy=NO_CACHE)
def train_vae(workspace: str, plan: stages.PretrainPlan) -> None:
    stages.train_vae(Path(workspace), plan, _fit_reporter())


@task(cache_policy=NO_CACHE)
def train_unet(workspace: str, plan: stages.PretrainPlan) -> None:
    stages.train_unet(Path(workspace), plan, _fit_reporter())


@task(cache_policy=NO_CACHE)
def train_clip_judge(workspace: str, plan: stages.PretrainPlan) -> None:
    stages.train_clip_judge(Path(workspace), plan, _fit_reporter())


@task(cache_policy=NO_CACHE)
def train_attribute_classifier(workspace: str, plan: stages.PretrainPlan) -> None:
    stages.train_attribute_classifier(Path(workspace), plan, _fit_reporter())


def _read_drawings(source: str) -> np.ndarray:
    """The readable pictures of a dataset, cropped to the middle square: uint8 (N, 128, 128, 3)."""
    pictures: list[np.ndarray] = []
    for record in open_source(DatasetSection.model_validate({"source": source})).records():
        if isinstance(record, QuarantinedRecord):
            continue
        with contextlib.suppress(RecordDamaged):
            pictures.append(prepare(record.image, (SIZE, SIZE)).pixels)
    if not pictures:
        raise DatasetUnusable(f"no picture of {source} can be read: use another dataset of drawings.")
    return np.stack(pictures)


@task(cache_policy=NO_CACHE)
def measure_base(workspace: str, plan: stages.PretrainPlan, real: str | None) -> dict[str, object]:
    """The figures of the base (report.json) and a page with pictures (report.html).

    `real` is a dataset of drawings that were never trained on; the VAE's round trip of them is measured.
    """
    folder = Path(workspace)
    classifier = stages.train_attribute_classifier(folder, plan, _fit_reporter())
    pipeline = stages.assemble(folder)
    guidance, candidates = evaluation.choose_guidance(pipeline, classifier)
    prompts = evaluation.held_out_prompts(400, seed=2)
    tell, began = reporter(), time.monotonic()

    def done(count: int) -> None:
        spent = time.monotonic() - began
        tell(Progress("measure", count, len(prompts), "picture", spent, spent / count * (len(prompts) - count)))

    pictures = evaluation.paint(pipeline, prompts, guidance, done)
    figures: dict[str, object] = {
        **evaluation.measure_vae(pipeline.vae, _read_drawings(real) if real else None),
        "reader_accuracy_after_vae": evaluation.measure_classifier(classifier, pipeline.vae),
        "judge_preference": evaluation.judge_preference(folder / "judge"),
        "guidance_candidates": candidates,
        "guidance": guidance,
        "prompts": len(prompts),
        "base_accuracy": evaluation.accuracy(classifier, pictures, [p.scene for p in prompts]),
        "megabytes": package.shipped_megabytes(folder),
        "unet_cost_ratio": evaluation.unet_cost_ratio(),
    }
    write_atomically(folder / "report.json", (json.dumps(figures, indent=2) + "\n").encode())
    package.write_report(folder, figures, [p.text for p in prompts], pictures)
    say("\n".join(evaluation.compare_with_bars(figures)))
    return figures


@task(cache_policy=NO_CACHE)
def ship(workspace: str, plan: stages.PretrainPlan) -> str:
    """Half-precision weights with their manifest, where the package looks for them."""
    folder = Path(str(package.WEIGHTS))
    package.ship(Path(workspace), plan, folder)
    sizes = ", ".join(f"{part} {package.megabytes(folder / part):.1f} MB" for part in ("base", "judge", "reader"))
    say(f"shipped to {folder}: {sizes}")
    return str(folder)
