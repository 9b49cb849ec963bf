"""Compare models on the same prompts and seeds: pictures, scores, differences, recipes; export as CSV or HTML."""

import csv
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from naruto_core.domain import Prompt, Sample, Score
from naruto_core.judging.vote_table import spreadsheet_text
from naruto_core.scoring.metrics import SAMPLE_METRICS
from naruto_core.scoring.resampling import Difference, holm, paired_difference
from naruto_core.scoring.verdict import Verdict, verdict


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and seed: the sample of each model (None where it has none), and the sample's scores by metric."""

    prompt: Prompt
    seed: int
    samples: tuple[Sample | None, ...]
    scores: tuple[Mapping[str, float], ...]

    def disagreement(self, metric: str) -> float:
        """The range of the models' scores of `metric`; -1 where a model has none."""
        values = [scores[metric] for scores in self.scores if metric in scores]
        return max(values) - min(values) if len(values) == len(self.scores) else -1.0


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """A metric of two models over the pictures that both have: both means, their difference (second minus first) with
    a 95 % interval, and the verdict (p adjusted by Holm over the metrics)."""

    metric: str
    extractor: str
    first: float
    second: float
    difference: Difference
    verdict: Verdict
    n: int


def pair_rows(
    models: Sequence[Sequence[Sample]], scores: Sequence[Mapping[str, Mapping[str, float]]], prompts: Sequence[Prompt]
) -> list[Row]:
    """A row for each prompt and seed that any model drew, in the order of `prompts`.

    `scores` has a mapping for each model: by sample id, then by metric.
    """
    by_place = [{(sample.prompt, sample.seed): sample for sample in samples} for samples in models]
    seeds = sorted({seed for places in by_place for _, seed in places})
    rows: list[Row] = []
    for prompt in prompts:
        for seed in seeds:
            samples = tuple(places.get((prompt.slug, seed)) for places in by_place)
            if any(samples):
                row_scores = tuple(
                    model_scores.get(sample.id, {}) if sample else {}
                    for sample, model_scores in zip(samples, scores, strict=True)
                )
                rows.append(Row(prompt, seed, samples, row_scores))
    return rows


def sample_scores(scores: Iterable[Score]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The sample scores among `scores`, by sample id and metric; and the measurement of each metric, for people."""
    by_sample: dict[str, dict[str, float]] = {}
    measurements: dict[str, str] = {}
    for score in scores:
        if score.sample_id:
            by_sample.setdefault(score.sample_id, {})[score.metric] = score.value
            measurements[score.metric] = f"{score.extractor} (version {score.version})"
    return by_sample, measurements


def compare_metrics(
    rows: Sequence[Row], index: int, measurements: Sequence[Mapping[str, str]]
) -> list[MetricComparison]:
    """Compare the first model with the model at `index`, by every sample metric that was measured alike on both."""
    comparisons: list[tuple[MetricComparison, int]] = []
    for metric in SAMPLE_METRICS:
        extractor = measurements[0].get(metric.name)
        common = [row for row in rows if metric.name in row.scores[0] and metric.name in row.scores[index]]
        if extractor is None or measurements[index].get(metric.name) != extractor or not common:
            continue
        first, second = (np.array([row.scores[i][metric.name] for row in common]) for i in (0, index))
        change = paired_difference(first, second, [row.prompt.slug for row in common], share=metric.share)
        change = change.between_equals() if np.array_equal(first, second) else change
        comparison = MetricComparison(
            metric.name, extractor, float(first.mean()), float(second.mean()), change, Verdict("undecided"), len(common)
        )
        comparisons.append((comparison, metric.better))
    adjusted = iter(holm([pair.difference.p for pair, _ in comparisons if pair.difference.p is not None]))
    result: list[MetricComparison] = []
    for comparison, better in comparisons:
        p = None if comparison.difference.p is None else next(adjusted)
        final = verdict(comparison.difference, better, p, max(1.0, abs(comparison.first)))
        result.append(replace(comparison, verdict=final))
    return result


def as_csv(names: Sequence[str], rows: Sequence[Row]) -> str:
    """CSV with a line for each picture: prompt, text, seed, model, the picture's sha256 and its scores."""
    metrics = sorted({metric for row in rows for scores in row.scores for metric in scores})
    memory = io.StringIO()
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow(["prompt", "text", "seed", "model", "sha256", *metrics])
    for row in rows:
        for name, sample, scores in zip(names, row.samples, row.scores, strict=True):
            if sample:
                values = [_finite(scores.get(metric)) for metric in metrics]
                writer.writerow(
                    [row.prompt.slug, spreadsheet_text(row.prompt.text), row.seed, name, sample.sha256, *values]
                )
    return memory.getvalue()


def _finite(value: float | None) -> float | str:
    """A missing or infinite value is an empty cell, because other programs do not read "nan"."""
    return value if value is not None and math.isfinite(value) else ""


def as_html(names: Sequence[str], rows: Sequence[Row], pictures: Mapping[str, str]) -> str:
    """A self-contained HTML page; `pictures` are data URLs by sha256."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(_html_row(row, pictures) for row in rows)
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
