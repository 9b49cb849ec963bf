"""Models beside each other: the same prompt and seed of each, their scores, and what tells them apart."""

import csv
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from naruto_core.domain import Prompt, Sample, Score
from naruto_core.recipe import RESAMPLES
from naruto_core.scoring.metrics import SAMPLE_METRICS
from naruto_core.scoring.resampling import Difference, difference, holm, mean_measure
from naruto_core.scoring.verdict import Verdict, verdict

_SEED = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and seed: the sample of each model (None where it has none), and each one's scores by metric."""

    prompt: Prompt
    seed: int
    samples: tuple[Sample | None, ...]
    scores: tuple[Mapping[str, float], ...]

    def apart(self, metric: str) -> float:
        """How far the models disagree by `metric`; -1 where it was not measured on all."""
        values = [scores[metric] for scores in self.scores if metric in scores]
        return max(values) - min(values) if len(values) == len(self.scores) else -1.0


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of two models over the pictures both have: means, the second less the first with a 95 % interval, and
    what may be said of it (Holm over the metrics)."""

    metric: str
    extractor: str
    first: float
    second: float
    difference: Difference
    verdict: Verdict
    n: int


def rows(
    models: Sequence[Sequence[Sample]], scores: Sequence[Mapping[str, Mapping[str, float]]], prompts: Sequence[Prompt]
) -> list[Row]:
    """One for each prompt and seed that any model drew, in the order of the suite; `scores` by sample, then metric."""
    placed = [{(sample.prompt, sample.seed): sample for sample in samples} for samples in models]
    seeds = sorted({seed for places in placed for _, seed in places})
    found: list[Row] = []
    for prompt in prompts:
        for seed in seeds:
            samples = tuple(places.get((prompt.slug, seed)) for places in placed)
            if any(samples):
                given = (of.get(one.id, {}) if one else {} for one, of in zip(samples, scores, strict=True))
                found.append(Row(prompt, seed, samples, tuple(given)))
    return found


def by_sample(scores: Iterable[Score]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The scores of single pictures, by sample and metric, and with what each metric was measured."""
    found: dict[str, dict[str, float]] = {}
    rulers: dict[str, str] = {}
    for score in scores:
        if score.sample_id:
            found.setdefault(score.sample_id, {})[score.metric] = score.value
            rulers[score.metric] = f"{score.extractor} (version {score.version})"
    return found, rulers


def changes(all_rows: Sequence[Row], place: int, rulers: Sequence[Mapping[str, str]]) -> list[Change]:
    """Every metric of pictures that the first model and the one at `place` were measured by in the same way."""
    found: list[tuple[Change, int, float | None]] = []
    for metric in SAMPLE_METRICS:
        extractor = rulers[0].get(metric.name)
        both = [row for row in all_rows if metric.name in row.scores[0] and metric.name in row.scores[place]]
        if extractor is None or rulers[place].get(metric.name) != extractor or not both:
            continue
        one, two = (np.array([row.scores[at][metric.name] for row in both]) for at in (0, place))
        seen = difference(mean_measure(np.concatenate((one, two))), [row.prompt.slug for row in both], RESAMPLES, _SEED)
        seen = seen.between_equals() if np.array_equal(one, two) else seen
        means = float(one.mean()), float(two.mean())
        found.append(
            (Change(metric.name, extractor, *means, seen, Verdict("undecided"), len(both)), metric.better, seen.p)
        )
    adjusted = iter(holm([p for _, _, p in found if p is not None]))
    judged: list[Change] = []
    for one, better, p in found:
        adjusted_p = None if p is None else next(adjusted)
        judged.append(replace(one, verdict=verdict(one.difference, better, adjusted_p, max(1.0, abs(one.first)))))
    return judged


def recipe_differences(recipes: Sequence[str]) -> dict[str, list[str]]:
    """The keys in which recipes (JSON) differ, as `section.key`, with the value of each; "" where one has none."""
    flat = [_flat(json.loads(text)) for text in recipes]
    keys = sorted({key for one in flat for key in one})
    values = {key: [one.get(key, "") for one in flat] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _flat(value: object, path: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {path: json.dumps(value)}
    return {
        key: text for name, inner in value.items() for key, text in _flat(inner, f"{path}.{name}".lstrip(".")).items()
    }


def as_csv(names: Sequence[str], all_rows: Sequence[Row]) -> str:
    """One line for each picture: prompt, seed, model, the picture's sha256 and its scores."""
    metrics = sorted({metric for row in all_rows for scores in row.scores for metric in scores})
    memory = io.StringIO()
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow(["prompt", "text", "seed", "model", "sha256", *metrics])
    for row in all_rows:
        for name, sample, scores in zip(names, row.samples, row.scores, strict=True):
            if sample:
                values = [_finite(scores.get(metric)) for metric in metrics]
                writer.writerow([row.prompt.slug, _cell(row.prompt.text), row.seed, name, sample.sha256, *values])
    return memory.getvalue()


def _finite(value: float | None) -> float | str:
    """A cell without a number is empty: other programs do not read "nan"."""
    return value if value is not None and math.isfinite(value) else ""


def _cell(text: str) -> str:
    """A spreadsheet must not take a prompt for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def as_html(names: Sequence[str], all_rows: Sequence[Row], pictures: Mapping[str, str]) -> str:
    """A page that needs nothing else: `pictures` are data URLs by sha256."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(_html_row(row, pictures) for row in all_rows)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(' / '.join(names))}</title><style>body{{font:16px system-ui;margin:2rem}}"
        "table{border-collapse:collapse}td,th{padding:.5rem;vertical-align:top;text-align:left}"
        "img{width:100%;max-width:512px}</style>"
        f"<h1>Compare</h1><table><tr><th>Prompt</th>{head}</tr>{body}</table></html>"
    )


def _html_row(row: Row, pictures: Mapping[str, str]) -> str:
    cells = ""
    for sample, scores in zip(row.samples, row.scores, strict=True):
        source = pictures.get(sample.sha256, "") if sample else ""
        figures = ", ".join(f"{metric} {value:.3f}" for metric, value in sorted(scores.items()))
        text = html.escape(row.prompt.text, quote=True)
        shown = f'<img src="{source}" alt="{text}"><br>{figures}' if source else "no picture"
        cells += f"<td>{shown}</td>"
    return f'<tr><td dir="auto">{html.escape(row.prompt.text)}<br>seed {row.seed}</td>{cells}</tr>'
