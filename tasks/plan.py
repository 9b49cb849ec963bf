"""Plan: what a run has still to do and how long that takes, at its start; and after each phase, what it took."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import torch
from prefect.artifacts import create_markdown_artifact
from prefect.context import TaskRunContext
from safetensors import SafetensorError, safe_open

from naruto_core import devices
from naruto_core.artifacts import Layout
from naruto_core.domain import DatasetVersion, PromptSuite, Run, RunState, Variant, format_duration
from naruto_core.errors import DeviceUnfit, amount
from naruto_core.generation import Job
from naruto_core.picture_cache import PictureCache
from naruto_core.planning.device_speeds import DEVICES, GIB, DeviceSpeed, known_speed, measured_speed
from naruto_core.planning.plan import Plan, aligned, facts, fit_memory, plan_run, table
from naruto_core.planning.workload import Workload, whole_workload
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import DatasetSection, GenerationSection
from naruto_core.scoring.findings import FUSED_MODEL
from naruto_core.store.database import Store
from tasks.context import RunContext, TaskContext
from tasks.progress import say
from tasks.training_data import class_jobs

ASSUMED_PICTURES = 1221  # of the report's set; for a dataset that was never ingested here
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}


def this_device(context: TaskContext, recipe: Recipe) -> DeviceSpeed:
    """The speed of this machine's device: by the table, or from a quick measurement."""
    settings, device = context.settings, context.device
    memory = int(settings.memory_gib * GIB) if settings.memory_gib else devices.available_memory(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    known = known_speed(name) if device.type == "cuda" else None
    if known:
        return replace(known, name=name, memory=memory)
    dtype = devices.half(recipe.generation.mixed_precision, device) or torch.float32
    return measured_speed(name, device, dtype, memory)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{model}, {amount(torch.get_num_threads(), 'thread')}"


def plan_for_gpu(context: TaskContext, recipe: Recipe, suite: PromptSuite, gpu: str | None) -> Plan:
    """The plan of a new run on this machine's device, or on the GPU called `gpu` in the table of devices.

    A recipe in fp16 is planned for a T4 where there is no GPU.

    Raises DeviceUnfit for an unknown name, and where the recipe does not fit that GPU.
    """
    pictures, notes = dataset_sizes(context, recipe.datasets)
    precisions = recipe.training.mixed_precision, recipe.generation.mixed_precision
    if gpu is None and context.device.type == "cpu" and "fp16" in precisions:
        gpu = "t4"
        notes.append("the recipe needs a GPU, which this machine has not: planned for a T4; --gpu names another")
    if gpu is None:
        return _plan(context, recipe, suite, this_device(context, recipe), context.device.type, pictures, notes)
    if gpu not in DEVICES:
        raise DeviceUnfit(f"--gpu {gpu}: there is no such device in the table; use one of {', '.join(DEVICES)}.")
    if gpu == "t4" and "bf16" in precisions:
        raise DeviceUnfit("the recipe uses bf16, which a T4 only emulates: set mixed_precision to fp16 or fp32.")
    return _plan(context, without_bf16(recipe), suite, DEVICES[gpu], "cuda", pictures, notes)


def without_bf16(recipe: Recipe) -> Recipe:
    """The recipe with fp16 for bf16, which takes the same time and memory; bf16 can be checked on a real GPU only."""
    training, drawing = recipe.training, recipe.generation
    fp16 = {"mixed_precision": "fp16"}
    changed = {
        "training_section": training.model_copy(update=fp16) if training.mixed_precision == "bf16" else training,
        "generation": drawing.model_copy(update=fp16) if drawing.mixed_precision == "bf16" else drawing,
    }
    return recipe.model_copy(update=changed)


def _plan(
    context: TaskContext,
    recipe: Recipe,
    suite: PromptSuite,
    speed: DeviceSpeed,
    kind: str,
    pictures: tuple[int, int],
    notes: Sequence[str],
    run: Run | None = None,
) -> Plan:
    whole = whole_workload(recipe, suite, *pictures)
    left = remaining_workload(context, recipe, suite, whole, kind, run)
    existing = [
        f"{name} {before - after}"
        for name, before, after in (
            ("class pictures", whole.class_pictures, left.class_pictures),
            ("preview pictures of the base", whole.preview_base, left.preview_base),
            ("training steps", whole.steps, left.steps),
            ("samples of the base", whole.base_samples, left.base_samples),
            ("samples of the adapter", whole.adapter_samples, left.adapter_samples),
        )
        if before > after
    ]
    not_counted = [
        f"not counted: {what}"
        for what, asked in (
            ("the refiner", recipe.generation.refiner is not None),
            ("texts of more than one chunk", recipe.generation.max_token_length > 75),
        )
        if asked
    ]
    exists = [f"exists already and is not planned: {', '.join(existing)}"] if existing else []
    memory, measured = fit_memory(recipe, kind, speed.memory), context.store.phase_speeds(speed.name)
    return plan_run(recipe, left, speed, kind, memory, measured, [*notes, *not_counted, *exists])


def dataset_sizes(context: TaskContext, sections: Sequence[DatasetSection]) -> tuple[tuple[int, int], list[str]]:
    """The number of pictures to train on and of those held out, and notes on what had to be assumed."""
    train, reference, notes = 0, 0, list[str]()
    for section in sections:
        size = _dataset_size(context, section)
        if size is None:
            size = ASSUMED_PICTURES
            notes.append(f"{section.source} is not ingested yet: {size:,} pictures are assumed")
        held_out = min(section.hold_out, size)
        train, reference = train + size - held_out, reference + held_out
    return (train, reference), notes


def _dataset_size(context: TaskContext, section: DatasetSection) -> int | None:
    """The number of pictures by the ingested version, by the words of a drawn world, or by a folder's files."""
    ingested = [dataset for dataset in context.store.datasets() if dataset.source == section.source]
    if ingested:
        return ingested[-1].n_pictures
    if drawn := drawn_pictures(section.source):
        return drawn
    folder = Path(section.source).expanduser()
    files = [path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES] if folder.is_dir() else []
    return len(files) or None


def drawn_pictures(source: str) -> int | None:
    """The number of pictures of a drawn world by its name, e.g. world:naruto?count=360; None for other sources."""
    count = parse_qs(urlsplit(source).query).get("count", [""])[0] if source.startswith("world:") else ""
    return int(count) if count.isdecimal() else None


def remaining_workload(
    context: TaskContext, recipe: Recipe, suite: PromptSuite, whole: Workload, kind: str, run: Run | None
) -> Workload:
    """`whole` less what exists: base pictures in the cache of this NARUTO_HOME, and what `run` has recorded."""
    store, device = context.store, torch.device(kind)
    if run and _is_trained(store, recipe, run):
        left = replace(whole, class_pictures=0, preview_base=0, encoded=0, steps=0, previews=0)
    else:
        done = store.last_step(run.id) if run else 0
        left = replace(whole, steps=max(whole.steps - done, 0))
        prior, previews, drawing = recipe.training.prior, recipe.training.previews, recipe.generation
        if prior and left.class_pictures:
            section = drawing.at_resolution(prior.resolution)
            left = replace(left, class_pictures=_missing(context.layout, recipe, section, class_jobs(recipe), device))
        if previews:
            precision = {"mixed_precision": recipe.training.mixed_precision}
            section = drawing.at_resolution(previews.resolution).model_copy(update=precision)
            shown = [Job(prompt.text, suite.seeds[0]) for prompt in suite.prompts[: previews.prompts]]
            left = replace(left, preview_base=_missing(context.layout, recipe, section, shown, device))
    return _less_samples(context, recipe, suite, left, device, run)


def _is_trained(store: Store, recipe: Recipe, run: Run) -> bool:
    return {adapter.style for adapter in store.adapters(run.id)} == set(recipe.adapter_names)


def _less_samples(
    context: TaskContext, recipe: Recipe, suite: PromptSuite, left: Workload, device: torch.device, run: Run | None
) -> Workload:
    """`left` without the fused model and the samples that `run` has, and without cached samples of the base."""
    recorded = context.store.samples(run.id) if run else []
    drawn = {(sample.prompt, sample.seed) for sample in recorded if sample.variant is Variant.BASE}
    jobs = [Job(p.text, seed) for p in suite.prompts for seed in suite.seeds if (p.slug, seed) not in drawn]
    of_base = _missing(context.layout, recipe, recipe.generation, jobs, device) if left.base_samples else 0
    of_adapter = len([sample for sample in recorded if sample.variant is not Variant.BASE])
    return replace(
        left,
        fused=0 if run and context.store.find_fused(run.id) else left.fused,
        base_samples=of_base,
        adapter_samples=max(left.adapter_samples - of_adapter, 0),
        checked=0 if run and _is_checked(context.store, run) else left.checked,
    )


def _is_checked(store: Store, run: Run) -> bool:
    return any(finding.name == FUSED_MODEL for finding in store.findings(run.id))


def _missing(
    layout: Layout, recipe: Recipe, section: GenerationSection, jobs: Sequence[Job], device: torch.device
) -> int:
    """How many of `jobs` are not in the picture cache."""
    if not layout.picture_cache.is_dir():  # else a base model's folder is hashed for nothing
        return len(jobs)
    return len(set(jobs)) - len(PictureCache(layout.picture_cache, recipe.model, section, device).find(jobs))


def announce_plan(
    context: TaskContext, run: Run, recipe: Recipe, suite: PromptSuite, datasets: Sequence[DatasetVersion]
) -> None:
    """Record the plan of `run`, print it, and show it on the flow run's page in Prefect; an import has no plan."""
    if recipe.imported:
        return
    pictures = sum(d.n_train for d in datasets), sum(d.n_reference for d in datasets)
    speed = this_device(context, recipe)
    plan = _plan(context, recipe, suite, speed, context.device.type, pictures, (), run)
    context.store.add_plan(run.id, plan.phases)
    say(f"plan: {format_duration(plan.seconds)}\n{aligned(table(plan))}")
    say("\n".join(facts(plan)))
    if TaskRunContext.get() is not None:
        create_markdown_artifact(markdown(plan), key="plan", description=f"Plan of run {run.id}")


def markdown(plan: Plan) -> str:
    """The plan as a Markdown table with its facts."""
    rows = [f"| {' | '.join(row)} |" for row in table(plan)]
    return "\n".join(
        [rows[0], "|---" * len(table(plan)[0]) + "|", *rows[1:], "", *(f"- {fact}" for fact in facts(plan))]
    )


@contextmanager
def timed_phase(
    context: RunContext, phase: str, units: int, processes: int = 1, seconds_before: float = 0.0
) -> Generator[None]:
    """Record what the block takes as the time of `units` of `phase`, and print it beside the plan; not on an error.

    `seconds_before` belong to the same units, and `processes` worked on them at once.
    """
    began = time.monotonic()
    yield
    add_phase_time(context, phase, units, time.monotonic() - began + seconds_before, processes)


def add_phase_time(context: RunContext, phase: str, units: int, seconds: float, processes: int = 1) -> None:
    """Record that `units` of `phase` took `seconds` of as many `processes`, and print that beside the plan."""
    record = next((r for r in context.store.phases(context.run.id) if r.planned.phase == phase), None)
    if record is None or units <= 0:
        return
    context.store.add_phase_time(context.run.id, phase, units, seconds, datetime.now(UTC), processes)
    planned = record.planned.seconds * units / max(record.planned.units, 1)
    by = f" in {processes} processes" if processes > 1 else ""
    say(f"{phase}: planned {format_duration(planned)} ({record.planned.basis}), took {format_duration(seconds)}{by}")


def _left(context: RunContext) -> Workload:
    """What the run has still to do."""
    pictures = sum(d.n_train for d in context.datasets), sum(d.n_reference for d in context.datasets)
    whole = whole_workload(context.recipe, context.suite, *pictures)
    return remaining_workload(context, context.recipe, context.suite, whole, context.device.type, context.run)


def class_pictures_left(context: RunContext) -> int:
    """The number of class pictures that are still to be drawn."""
    return _left(context).class_pictures


def preview_base_left(context: RunContext) -> int:
    """The number of the base model's preview pictures that are still to be drawn."""
    return _left(context).preview_base


def encoded_rows(layout: Layout) -> int:
    """The number of encoded pictures in the caches of a NARUTO_HOME."""
    rows = 0
    for shard in layout.cache("").glob("examples-*/shard-*.safetensors"):
        with suppress(OSError, SafetensorError), safe_open(shard, framework="np") as file:
            rows += file.get_slice("mean").get_shape()[0]
    return rows


def samples_left(context: RunContext) -> int:
    """The number of samples that are still to be drawn; 0 for an import, which has no plan."""
    if context.recipe.imported:
        return 0
    left = _left(context)
    return left.base_samples + left.adapter_samples


def pictures_to_score(context: RunContext) -> int:
    """The number of pictures that the measuring networks see; 0 for an import, and for a finished run."""
    return 0 if context.run.state is RunState.DONE or context.recipe.imported else _left(context).scored
