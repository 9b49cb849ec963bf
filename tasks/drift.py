"""Drift: score a sample of the pictures that the HTTP service served, and compare it with the promoted run's samples.

The service writes pictures to a folder, each with its prompt. They are scored with the run's own metrics and
extractors, and deleted. Only numbers are kept.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from naruto_core import picture_file
from naruto_core.domain import Variant
from naruto_core.errors import NotRecorded, RecordDamaged
from naruto_core.scoring.drift import Values, shift, why_never_steady
from naruto_core.scoring.feature_set import Features
from naruto_core.scoring.features import Extractor, embed_pictures, embed_texts, load_extractor
from naruto_core.scoring.sample_metrics import cosines, is_blank, style_closeness
from naruto_core.serving import Drift, DriftVerdict, ServedScore
from naruto_core.store.database import open_database
from tasks.context import TaskContext, recorded_run, task_context
from tasks.features import real_features, real_pictures
from tasks.progress import say

METRICS = ("clip", "style", "blank")
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class ServedPicture:
    """A picture that was served, with its prompt and the run that drew it."""

    path: Path
    run_id: str
    prompt: str
    asked: str
    drawn_at: datetime


@dataclass(frozen=True, slots=True)
class RunExtractors:
    """What a run's own samples were measured with: its extractors, and the reference (m, d) of its style."""

    pairs: Extractor
    sets: Extractor
    reference: Features


@task(cache_policy=NO_CACHE)
def measure_served(loaded: dict[str, RunExtractors] | None = None) -> int:
    """Score every served picture in the folder; how many there were. `loaded` keeps extractors between calls."""
    extractors, count = {} if loaded is None else loaded, 0
    with task_context() as context, open_database(context.settings.database_url).served_scores as served_scores:
        by_run = sorted(_served_pictures(context), key=lambda served: served.run_id)
        for run_id, group in groupby(by_run, lambda served: served.run_id):
            pictures = list(group)
            try:
                extractors[run_id] = extractors.get(run_id) or _run_extractors(context, run_id, [*extractors.values()])
            except (NotRecorded, RecordDamaged) as error:  # other runs' pictures must not wait for these
                for served in pictures:
                    _discard(served.path, error)
                continue
            for start in range(0, len(pictures), _AT_ONCE):
                batch = pictures[start : start + _AT_ONCE]
                opened = [(served, picture) for served in batch if (picture := _open(served.path))]
                served_scores.add_scores(_scores(opened, extractors[run_id]) if opened else [])
                for served, _ in opened:
                    served.path.unlink(missing_ok=True)
                count += len(opened)
    return count


@task(cache_policy=NO_CACHE)
def compare_served(days: float) -> list[Drift]:
    """Compare what was served in the last `days` with each run's own samples, and record the result."""
    now = datetime.now(UTC)
    since = now - timedelta(days=days)
    with task_context() as context, open_database(context.settings.database_url).served_scores as served:
        by_run = sorted(served.scores(since), key=lambda score: score.run_id)
        drifts = [
            drift
            for run_id, scores in groupby(by_run, lambda score: score.run_id)
            for drift in _drifts(context, run_id, list(scores), since, now)
        ]
        served.add_drifts(drifts)
    return drifts


@task(cache_policy=NO_CACHE)
def report_drift(drifts: list[Drift]) -> list[str]:
    """Report the comparison: sentences, a table in Prefect, and an event for each metric that has drifted."""
    sentences = [in_words(drift) for drift in drifts]
    for sentence in sentences or ["No picture that was served in this time has been measured."]:
        say(sentence)
    if drifts:
        rows = [
            {name: None if value in (math.inf, -math.inf) else value for name, value in asdict(drift).items()}
            | {"since": str(drift.since), "said_at": str(drift.said_at)}
            for drift in drifts
        ]
        create_table_artifact(rows, key="served-quality", description="Served pictures against the runs' own samples.")
    for drift in drifts:
        if drift.verdict is DriftVerdict.DRIFTED:
            resource = {"prefect.resource.id": f"naruto.run.{drift.run_id}", "prefect.resource.name": drift.run_id}
            payload = {"metric": drift.metric, "sentence": in_words(drift)}
            emit_event("naruto.quality.drifted", resource, payload=payload)
    return sentences


def in_words(drift: Drift) -> str:
    """One line: what was compared, the difference with its interval, and the verdict."""
    return (
        f"{drift.run_id} {drift.metric}: served {drift.served:.3f}, its own samples {drift.own:.3f}, "
        f"difference {drift.difference:+.3f} [{_interval(drift)}] "
        f"(n = {drift.n_served} of {drift.prompts_served} prompts): {drift.verdict}"
    )


def _interval(drift: Drift) -> str:
    finite = math.isfinite(drift.low) and math.isfinite(drift.high)
    return f"{drift.low:+.3f}, {drift.high:+.3f}" if finite else "no interval: too few prompts"


def _served_pictures(context: TaskContext) -> Iterator[ServedPicture]:
    """The pictures in the folder; a file without facts, or of an unknown run, is deleted."""
    for path in sorted(context.layout.watched.glob(f"[!.]*{picture_file.SUFFIX}")):
        try:
            with Image.open(path) as picture:
                facts: Mapping[str, str] = picture_file.read_facts(picture)
            run_id = context.store.run(facts["run"]).id
            yield ServedPicture(
                path, run_id, facts["prompt"], facts["asked"], datetime.fromisoformat(facts["drawn_at"])
            )
        except FileNotFoundError:
            continue  # measured meanwhile
        except (OSError, SyntaxError, KeyError, ValueError, NotRecorded) as error:
            _discard(path, error)


def _discard(path: Path, error: Exception) -> None:
    say(f"{path.name} cannot be measured ({type(error).__name__}: {error}); it is deleted.")
    path.unlink(missing_ok=True)


def _run_extractors(context: TaskContext, run_id: str, others: Sequence[RunExtractors]) -> RunExtractors:
    """What `run_id` was measured with; a network that one of `others` has loaded is not loaded again."""
    opened = recorded_run(context, run_id)
    recipe, dataset = opened.recipe, opened.dataset
    section = recipe.scoring
    loaded = {extractor.id: extractor for other in others for extractor in (other.pairs, other.sets)}

    def extractor(name: str) -> Extractor:
        wanted = load_extractor(name, context.device)
        return loaded.setdefault(wanted.id, wanted)

    sets = extractor(section.set_extractor)
    real = real_pictures(context, dataset, section.reference, len(context.store.samples(run_id, Variant.ADAPTED)))
    resolution = recipe.generation.resolution
    return RunExtractors(
        pairs=extractor(section.pair_extractor),
        sets=sets,
        reference=real_features(context, real.reference, sets, resolution, section.batch_size),
    )


def _open(path: Path) -> Image.Image | None:
    """None when the service's own process or another flow has just measured it, or when it is damaged."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError) as error:
        _discard(path, error)
        return None


def _scores(pictures: Sequence[tuple[ServedPicture, Image.Image]], run_extractors: RunExtractors) -> list[ServedScore]:
    """Every metric of every picture, in the half precision that the run's own features are kept in."""
    loads = [lambda picture=picture: picture for _, picture in pictures]

    def features(extractor: Extractor) -> Features:
        return np.concatenate(list(embed_pictures(extractor, loads, len(loads)))).astype(np.float16)

    of_sets = features(run_extractors.sets)
    of_pairs = of_sets if run_extractors.pairs is run_extractors.sets else features(run_extractors.pairs)
    texts = embed_texts(run_extractors.pairs, [request.prompt for request, _ in pictures]).astype(np.float16)
    columns = {
        "clip": (cosines(of_pairs, texts), run_extractors.pairs.id),
        "style": (style_closeness(of_sets, run_extractors.reference), run_extractors.sets.id),
        "blank": ([float(is_blank(picture)) for _, picture in pictures], run_extractors.sets.id),
    }
    return [
        ServedScore(request.path.stem, request.run_id, request.asked, request.drawn_at, metric, float(value), extractor)
        for metric, (values, extractor) in columns.items()
        for (request, _), value in zip(pictures, values, strict=True)
    ]


def _drifts(
    context: TaskContext, run_id: str, scores: Sequence[ServedScore], since: datetime, now: datetime
) -> Iterator[Drift]:
    """One for each metric that both sides have by the same extractor."""
    prompts = {sample.id: sample.prompt for sample in context.store.samples(run_id, Variant.ADAPTED)}
    of_run = [score for score in context.store.scores(run_id) if score.sample_id in prompts]
    for metric in METRICS:
        own = [score for score in of_run if score.metric == metric]
        extractors = {score.extractor for score in own}
        served = [score for score in scores if score.metric == metric and score.extractor in extractors]
        if not own or not served or len(extractors) != 1:
            say(f"{run_id} {metric}: no served picture was measured like the run's own samples.")
            continue
        result = shift(
            Values(np.array([score.value for score in served]), [score.asked for score in served]),
            Values(np.array([score.value for score in own]), [prompts[score.sample_id or ""] for score in own]),
            share=metric == "blank",
        )
        own_prompts = len({prompts[score.sample_id or ""] for score in own})
        if reason := why_never_steady(result, own_prompts):
            say(f"{run_id} {metric} cannot be found steady: {reason}. The canary pictures are compared one by one.")
        yield Drift(
            run_id=run_id, metric=metric, since=since, said_at=now, served=result.served, own=result.own,
            difference=result.difference, low=result.low, high=result.high, margin=result.margin, n_served=len(served),
            prompts_served=len({score.asked for score in served}), n_own=len(own), extractor=extractors.pop(),
            verdict=result.verdict,
        )  # fmt: skip
