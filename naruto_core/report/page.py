"""A run's report: one HTML page that contains its pictures and needs no other file; all text in it is escaped."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from naruto_core.domain import Finding, PromptSuite, Run, Score, StepRecord, Variant
from naruto_core.report.tables import score_lines, scored_variants
from naruto_core.scoring.comparison import Comparison
from naruto_core.scoring.resampling import Difference

WIDTH, HEIGHT = 320, 120  # of a curve, in its own units
THUMBNAIL = 256  # pixels
NOT_DECIDED = ("undecided", "cannot be judged", "not measured")
CURVES = ("loss", "validation_loss", "clip_score", "copying_rank")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A drawn picture and its nearest training picture, as data URLs.

    `sample` is the drawn picture's id; `cosine` is -1 to 1; `rank` is that of `memorization.ranks`, above 0 up to 1.
    """

    sample: str
    prompt: str
    caption: str
    drawn: str
    training: str
    cosine: float
    rank: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One gauge of training over its steps; `points` of an SVG polyline."""

    name: str
    points: str
    steps: int
    first: float
    last: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """What the page shows. `pictures` are files by prompt and variant."""

    run: Run
    suite: PromptSuite
    scores: Sequence[Score]
    findings: Sequence[Finding]
    comparisons: Sequence[Comparison]
    steps: Sequence[StepRecord]
    pictures: Mapping[tuple[str, Variant], Path]
    neighbours: Sequence[Neighbours]


def report_page(facts: ReportFacts) -> str:
    """The page of a run, as HTML."""
    environment = Environment(
        loader=PackageLoader("naruto_core.report", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["number"] = _number
    shown = [v for v in (Variant.BASE, Variant.ADAPTED) if any(key[1] is v for key in facts.pictures)]
    lines = score_lines(facts.scores)
    primary, rest = ([c for c in facts.comparisons if c.primary is kind] for kind in (True, False))
    return environment.get_template("page.html.j2").render(
        run=facts.run,
        suite=facts.suite,
        finished=f"{facts.run.finished_at:%Y-%m-%d %H:%M} UTC" if facts.run.finished_at else "not yet",
        headline=_headline(facts.comparisons),
        findings=facts.findings,
        comparisons=[("Primary metrics, named in the recipe", primary), ("Exploratory", rest)],
        undecided=_undecided(facts.comparisons),
        variants=[variant.value for variant in scored_variants(facts.scores)],
        scores=lines,
        measurements=_measurements(facts.scores),
        methods=sorted({score.method for score in facts.scores if score.method}),
        libraries=_libraries(facts.scores),
        curves=[curve for name in CURVES if (curve := _curve(name, facts.steps))],
        neighbours=facts.neighbours,
        shown=[variant.value for variant in shown],
        sheets=_sheets(facts, shown),
    )


def picture_url(path: Path) -> str:
    """The picture in the file `path` as a data URL: WebP, at most 256 pixels wide and high, without metadata."""
    with Image.open(path) as picture:
        return image_url(picture.convert("RGB"))


def image_url(picture: Image.Image) -> str:
    """`picture_url` of a picture that is open."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _headline(comparisons: Sequence[Comparison]) -> str:
    primary = [comparison for comparison in comparisons if comparison.primary]
    if not comparisons:
        return "Base and adapted were not both drawn: there is nothing to compare."
    if not primary:
        return "The adapted model against its base: none of the primary metrics was measured for both."
    verdicts = [f"{c.metric} {c.verdict}{_with_interval(c.difference)}" for c in primary]
    return f"The adapted model against its base, by the primary metrics: {'; '.join(verdicts)}."


def _with_interval(difference: Difference | None) -> str:
    if difference is None or difference.low is None or difference.high is None:
        return ""
    return f" ({_number(difference.value)} [{_number(difference.low)}, {_number(difference.high)}])"


def _undecided(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return ""
    undecided = [f"{c.metric}: {c.verdict}" for c in comparisons if c.verdict.word in NOT_DECIDED]
    return f"Could not be decided: {'; '.join(undecided)}." if undecided else "Nothing was left undecided."


def _measurements(scores: Sequence[Score]) -> list[str]:
    """Each extractor with the metrics that were measured with it."""
    metrics: dict[str, list[str]] = {}
    for score in scores:
        metrics.setdefault(score.extractor, []).append(f"{score.metric} ({score.version})")
    return [f"{extractor}: {', '.join(dict.fromkeys(names))}" for extractor, names in metrics.items()]


def _libraries(scores: Sequence[Score]) -> str:
    return next((str(score.details["libraries"]) for score in scores if "libraries" in score.details), "")


@dataclass(frozen=True, slots=True)
class Block:
    """A prompt with its pictures, as data URLs."""

    prompt: str
    pictures: list[str]


def _sheets(facts: ReportFacts, shown: Sequence[Variant]) -> list[tuple[str, list[Block]]]:
    """Prompts with their pictures, by tag; a prompt with several tags is listed under its first."""
    sheets: dict[str, list[Block]] = {}
    for prompt in facts.suite.prompts:
        paths = [facts.pictures[prompt.slug, v] for v in shown if (prompt.slug, v) in facts.pictures]
        if paths:
            block = Block(prompt.text, [picture_url(path) for path in paths])
            sheets.setdefault(prompt.tags[0] if prompt.tags else "other", []).append(block)
    return list(sheets.items())


def _curve(name: str, steps: Sequence[StepRecord]) -> Curve | None:
    records = [(s.step, s.loss if name == "loss" else s.gauges.get(name, float("nan"))) for s in steps]
    records = [(step, value) for step, value in records if abs(value) < float("inf")]
    if len(records) < 2:
        return None
    values = [value for _, value in records]
    least, most, last = min(values), max(values), records[-1][0] or 1
    span = (most - least) or 1.0
    points = " ".join(
        f"{WIDTH * step / last:.1f},{HEIGHT - 6 - (HEIGHT - 12) * (value - least) / span:.1f}"
        for step, value in records
    )
    return Curve(name.replace("_", " "), points, last + 1, values[0], values[-1], least, most)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    size = abs(value)
    return f"{value:.{0 if size >= 1000 else 1 if size >= 100 else 3}f}"
