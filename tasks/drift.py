"""Watch: measure a sample of what the HTTP service gave out, and say whether it is still what was promoted.

The service leaves pictures in a folder, each with its prompt; here they get the run's own metrics by the run's own
extractors, and go. What stays is numbers.
"""

import json
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
from prefect.events import emit_event

from naruto_core.domain import Variant
from naruto_core.errors import NotRecorded, RecordDamaged
from naruto_core.recipe import Recipe
from naruto_core.scoring.drift import Values, shift
from naruto_core.scoring.features import Extractor, embed_pictures, embed_texts, load_extractor
from naruto_core.scoring.sample_metrics import cosines, is_blank, style_closeness
from naruto_core.scoring.set_metric import Features
from naruto_core.serving import Drift, ServedScore, Steadiness
from naruto_core.store.database import open_database
from tasks.context import TaskContext, working_place
from tasks.features import real_features, real_pictures
from tasks.progress import say

METRICS = ("clip", "style", "blank")
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Waiting:
    """A picture that was served, and what is known of it."""

    path: Path
    run_id: str
    prompt: str
    asked: str
    drawn_at: datetime


@dataclass(frozen=True, slots=True)
class Ruler:
    """What a run's own samples were measured with: its extractors, and the reference (m, d) of its style."""

    pairs: Extractor
    sets: Extractor
    reference: Features


@task
def measure_served(rulers: dict[str, Ruler] | None = None) -> int:
    """Give every waiting picture its scores; how many there were. `rulers` are kept from one call to the next."""
    kept, count = {} if rulers is None else rulers, 0
    with working_place() as place, open_database(place.settings.database_url).served_scores as served:
        for run_id, pictures in groupby(sorted(_waiting(place), key=lambda one: one.run_id), lambda one: one.run_id):
            waiting = list(pictures)
            try:
                kept[run_id] = kept.get(run_id) or _ruler(place, run_id, list(kept.values()))
            except (NotRecorded, RecordDamaged) as error:  # others shall not wait for what will never be measured
                for one in waiting:
                    _leave_out(one.path, error)
                continue
            for some in _parts(waiting):
                opened = [(one, picture) for one in some if (picture := _opened(one.path))]
                served.add_scores(_scores(opened, kept[run_id]) if opened else [])
                for one, _ in opened:
                    one.path.unlink(missing_ok=True)
                count += len(opened)
    return count


@task
def compare_served(days: float) -> list[Drift]:
    """Hold what was served in the last `days` against each run's own samples, and keep what follows."""
    now = datetime.now(UTC)
    since = now - timedelta(days=days)
    with working_place() as place, open_database(place.settings.database_url).served_scores as served:
        by_run = sorted(served.scores(since), key=lambda one: one.run_id)
        found = [
            drift
            for run_id, scores in groupby(by_run, lambda one: one.run_id)
            for drift in _drifts(place, run_id, list(scores), since, now)
        ]
        served.add_drifts(found)
    return found


@task
def tell(found: list[Drift]) -> list[str]:
    """Say it to whoever looks: sentences, a table in Prefect, and an event for each that has drifted."""
    sentences = [in_words(one) for one in found]
    for sentence in sentences or ["Nothing that was served in this time has been measured."]:
        say(sentence)
    if found:
        rows = [
            {name: None if value in (math.inf, -math.inf) else value for name, value in asdict(one).items()}
            | {"since": str(one.since), "said_at": str(one.said_at)}
            for one in found
        ]
        create_table_artifact(rows, key="served-quality", description="Served pictures against the runs' own samples.")
    for one in found:
        if one.verdict is Steadiness.DRIFTED:
            resource = {"prefect.resource.id": f"naruto.run.{one.run_id}", "prefect.resource.name": one.run_id}
            emit_event("naruto.quality.drifted", resource, payload={"metric": one.metric, "sentence": in_words(one)})
    return sentences


def in_words(drift: Drift) -> str:
    """One line: what was compared, the difference with its interval, and the verdict."""
    return (
        f"{drift.run_id} {drift.metric}: served {drift.served:.3f}, its own samples {drift.own:.3f}, "
        f"difference {drift.difference:+.3f} [{_interval(drift)}] "
        f"(n = {drift.n_served} of {drift.prompts_served} prompts): {drift.verdict}"
    )


def _interval(drift: Drift) -> str:
    known = math.isfinite(drift.low) and math.isfinite(drift.high)
    return f"{drift.low:+.3f}, {drift.high:+.3f}" if known else "no interval: too few prompts"


def _waiting(place: TaskContext) -> Iterator[Waiting]:
    """What lies in the folder; what says nothing of itself, or belongs to no run of ours, goes at once."""
    for path in sorted(place.layout.watched.glob("[!.]*.png")):
        try:
            with Image.open(path) as picture:
                facts: Mapping[str, str] = json.loads(picture.info["naruto"])
            run_id = place.store.run(facts["run"]).id
            yield Waiting(path, run_id, facts["prompt"], facts["asked"], datetime.fromisoformat(facts["drawn_at"]))
        except FileNotFoundError:
            continue  # measured meanwhile
        except (OSError, SyntaxError, KeyError, ValueError, NotRecorded) as error:
            _leave_out(path, error)


def _leave_out(path: Path, error: Exception) -> None:
    say(f"{path.name} cannot be measured ({type(error).__name__}: {error}); it is left out.")
    path.unlink(missing_ok=True)


def _ruler(place: TaskContext, run_id: str, others: Sequence[Ruler]) -> Ruler:
    """What `run_id` was measured with; a network that one of `others` has loaded is not loaded again."""
    run, suite = place.store.run(run_id), place.store.prompts(run_id)
    dataset = place.store.find_dataset(run.dataset_id)
    if suite is None or dataset is None:
        raise NotRecorded(f"run {run_id} has no samples yet; finish it with  naruto run --recipe {run.profile}")
    recipe = Recipe.model_validate_json(place.store.recipe_json(run_id))
    section = recipe.scoring
    loaded = {extractor.id: extractor for ruler in others for extractor in (ruler.pairs, ruler.sets)}

    def extractor(name: str) -> Extractor:
        wanted = load_extractor(name, place.device)
        return loaded.setdefault(wanted.id, wanted)

    sets = extractor(section.set_extractor)
    real = real_pictures(place, dataset, section.reference, len(place.store.samples(run_id, Variant.ADAPTED)))
    resolution = recipe.generation.resolution
    return Ruler(
        pairs=extractor(section.pair_extractor),
        sets=sets,
        reference=real_features(place, real.reference, sets, resolution, section.batch_size),
    )


def _parts(pictures: Sequence[Waiting]) -> Iterator[Sequence[Waiting]]:
    for start in range(0, len(pictures), _AT_ONCE):
        yield pictures[start : start + _AT_ONCE]


def _opened(path: Path) -> Image.Image | None:
    """None when it has just been measured, by the service's own process or by a flow; or when it is damaged."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError) as error:
        _leave_out(path, error)
        return None


def _scores(pictures: Sequence[tuple[Waiting, Image.Image]], ruler: Ruler) -> list[ServedScore]:
    """Every metric of every picture, in the half precision that the run's own features are kept in."""
    loads = [lambda picture=picture: picture for _, picture in pictures]

    def features(extractor: Extractor) -> Features:
        return np.concatenate(list(embed_pictures(extractor, loads, len(loads)))).astype(np.float16)

    of_sets = features(ruler.sets)
    of_pairs = of_sets if ruler.pairs is ruler.sets else features(ruler.pairs)
    texts = embed_texts(ruler.pairs, [one.prompt for one, _ in pictures]).astype(np.float16)
    found = {
        "clip": (cosines(of_pairs, texts), ruler.pairs.id),
        "style": (style_closeness(of_sets, ruler.reference), ruler.sets.id),
        "blank": ([float(is_blank(picture)) for _, picture in pictures], ruler.sets.id),
    }
    return [
        ServedScore(one.path.stem, one.run_id, one.asked, one.drawn_at, metric, float(value), extractor)
        for metric, (values, extractor) in found.items()
        for (one, _), value in zip(pictures, values, strict=True)
    ]


def _drifts(
    place: TaskContext, run_id: str, scores: Sequence[ServedScore], since: datetime, now: datetime
) -> Iterator[Drift]:
    """One for each metric that both sides have by the same extractor."""
    prompts = {sample.id: sample.prompt for sample in place.store.samples(run_id, Variant.ADAPTED)}
    of_run = [score for score in place.store.scores(run_id) if score.sample_id in prompts]
    for metric in METRICS:
        own = [score for score in of_run if score.metric == metric]
        extractors = {score.extractor for score in own}
        served = [score for score in scores if score.metric == metric and score.extractor in extractors]
        if not own or not served or len(extractors) != 1:
            say(f"{run_id} {metric}: nothing was served that was measured as the run's own samples were.")
            continue
        found = shift(
            Values(np.array([one.value for one in served]), [one.asked for one in served]),
            Values(np.array([one.value for one in own]), [prompts[one.sample_id or ""] for one in own]),
            share=metric == "blank",
            seed=0,
        )
        yield Drift(
            run_id=run_id, metric=metric, since=since, said_at=now, served=found.served, own=found.own,
            difference=found.difference, low=found.low, high=found.high, margin=found.margin, n_served=len(served),
            prompts_served=len({one.asked for one in served}), n_own=len(own), extractor=extractors.pop(),
            verdict=found.verdict,
        )  # fmt: skip
