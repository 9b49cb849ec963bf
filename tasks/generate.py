"""Generate: every prompt of the suite, every seed, by every variant; nothing cherry-picked."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prefect import task

from naruto_core import sdxl
from naruto_core.artifacts import sha256_file
from naruto_core.domain import Adapter, FusedModel, Progress, Prompt, PromptSuite, Run, Sample, Variant
from naruto_core.fusion import load_adapters, load_fused
from naruto_core.generation import Job, Painter, sample_id, save_picture
from naruto_core.prompts import put_tokens
from naruto_core.recipe import FusionSection, GenerationSection, ModelSection
from tasks.context import TaskContext, working_on
from tasks.fuse import blends
from tasks.progress import reporter


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One sample still to be drawn."""

    variant: Variant
    prompt: Prompt
    seed: int
    text: str


@task
def generate(
    run: Run,
    model: ModelSection,
    fusion: FusionSection,
    section: GenerationSection,
    suite: PromptSuite,
    tokens: Mapping[str, str],
    adapters: Sequence[Adapter],
    fused: FusedModel,
) -> int:
    """Draw what is missing of the run's samples; the number of samples there are then.

    What was trained reads the words of `tokens` as its new tokens; the base, which has none, as they stand.
    """
    with working_on(run, "generate") as place:
        place.store.add_prompts(run.id, suite)
        wanted = [
            _Wanted(
                Variant(variant), prompt, seed, prompt.text if variant == "base" else put_tokens(prompt.text, tokens)
            )
            for variant in section.variants
            for prompt in suite.prompts
            for seed in suite.seeds
        ]
        recorded = place.store.samples(run.id)
        known = {(s.variant, s.prompt, s.seed) for s in recorded if _is_whole(place.layout.absolute(s.path), s.sha256)}
        missing = [w for w in wanted if (w.variant, w.prompt.slug, w.seed) not in known]
        count = _Counter(len(wanted), len(wanted) - len(missing), reporter())
        for variant in dict.fromkeys(w.variant for w in missing):
            load = partial(_painter, place, variant, model, fusion, section, adapters, fused)
            _draw_variant(place, run, load, [w for w in missing if w.variant is variant], count)
        return len(wanted)


def _draw_variant(
    place: TaskContext, run: Run, load: Callable[[], Painter], missing: Sequence[_Wanted], count: "_Counter"
) -> None:
    """Draw and record `missing`, of one variant; its model is gone when this returns, before the next one loads."""
    painter = load()
    for start in range(0, len(missing), painter.section.batch_size):
        batch = missing[start : start + painter.section.batch_size]
        place.store.add_samples(_draw(place, run, painter, batch, count))


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def _painter(
    place: TaskContext,
    variant: Variant,
    model: ModelSection,
    fusion: FusionSection,
    section: GenerationSection,
    adapters: Sequence[Adapter],
    fused: FusedModel,
) -> Painter:
    if variant is Variant.FUSED:
        return Painter(load_fused(place.layout.root / fused.path, section.mixed_precision, place.device), section)
    pipeline = sdxl.load_pipeline(model, section.mixed_precision, place.device)
    if variant is Variant.ADAPTED:
        load_adapters(pipeline, blends(place, fusion, adapters))
    return Painter(pipeline, section)


def _draw(place: TaskContext, run: Run, painter: Painter, batch: Sequence[_Wanted], count: "_Counter") -> list[Sample]:
    jobs = [Job(w.text, w.seed) for w in batch]
    pictures = painter.paint(
        jobs, lambda step: count.step(batch[0].variant, step, painter.section.num_inference_steps, len(batch))
    )
    samples: list[Sample] = []
    for want, picture in zip(batch, pictures, strict=True):
        name = sample_id(run.id, want.variant, want.prompt.slug, want.seed)
        path = place.layout.sample(run.id, name)
        facts = {"run": run.id, "variant": want.variant, "prompt": want.text, "seed": want.seed}
        save_picture(picture, path, facts | painter.section.model_dump(mode="json"))
        samples.append(
            Sample(
                name, run.id, want.variant, want.prompt.slug, want.seed, place.layout.relative(path), sha256_file(path)
            )
        )
    count.finished(len(batch))
    return samples


class _Counter:
    """Progress over all batches, moving within a batch too: on a T4 one batch may take half a minute."""

    def __init__(self, total: int, done: int, report: Callable[[Progress], None]) -> None:
        self.total, self.done, self.first, self.report = total, done, done, report
        self.began = time.monotonic()

    def step(self, variant: Variant, step: int, steps: int, pictures: int) -> None:
        self._tell(self.done + pictures * step / (steps + 1), variant)

    def finished(self, pictures: int) -> None:
        self.done += pictures
        self._tell(self.done, None)

    def _tell(self, done: float, variant: Variant | None) -> None:
        spent = time.monotonic() - self.began
        left = spent / max(done - self.first, 1e-9) * (self.total - done)
        self.report(Progress("generate", int(done), self.total, "picture", spent, left, variant or ""))
