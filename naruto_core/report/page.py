"""A run's report: one self-contained HTML page, everything in it escaped, pictures and all."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from naruto_core.domain import Finding, PromptSuite, Run, Score, StepRecord, Variant
from naruto_core.report.tables import score_lines
from naruto_core.scoring.comparison import Comparison
from naruto_core.scoring.resampling import Difference

WIDE, HIGH, EDGE = 320, 120, 256
NOT_DECIDED = ("undecided", "cannot be judged", "not measured")
CURVES = ("loss", "validation_loss", "clip_score", "copying_rank")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A drawn picture and the training picture nearest to it, as data URLs; `rank` as of `copying.ranks`.

    `sample` is the drawn picture's id.
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
    """One gauge of training; `points` in the picture's own units."""

    name: str
    points: str
    steps: int
    first: float
    last: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """All that the page tells. `pictures` are files by prompt and variant."""

    run: Run
    suite: PromptSuite
    scores: Sequence[Score]
    findings: Sequence[Finding]
    comparisons: Sequence[Comparison]
    steps: Sequence[StepRecord]
    pictures: Mapping[tuple[str, Variant], Path]
    neighbours: Sequence[Neighbours]


def report_page(facts: ReportFacts) -> str:
    """The page as HTML."""
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
        variants=[variant.value for variant in Variant],
        scores=lines,
        rulers=_rulers(facts.scores),
        methods=sorted({score.method for score in facts.scores if score.method}),
        libraries=_libraries(facts.scores),
        curves=[curve for name in CURVES if (curve := _curve(name, facts.steps))],
        neighbours=facts.neighbours,
        shown=[variant.value for variant in shown],
        sheets=_sheets(facts, shown),
    )


def picture_url(path: Path) -> str:
    """The picture as a data URL: WebP, at most 256 pixels wide and high, without any metadata."""
    with Image.open(path) as picture:
        return image_url(picture.convert("RGB"))


def image_url(picture: Image.Image) -> str:
    """The same of a picture that is open."""
    small = picture.copy()
    small.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _headline(comparisons: Sequence[Comparison]) -> str:
    primary = [one for one in comparisons if one.primary]
    if not primary:
        return "Base and adapted were not both drawn: there is nothing to compare."
    return (
        "The adapted model against its base, by the primary metrics: "
        + "; ".join(f"{one.metric} {one.verdict}{_with_interval(one.difference)}" for one in primary)
        + "."
    )


def _with_interval(found: Difference | None) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    return f" ({_number(found.value)} [{_number(found.low)}, {_number(found.high)}])"


def _undecided(comparisons: Sequence[Comparison]) -> str:
    open_ones = [f"{one.metric}: {one.verdict}" for one in comparisons if one.verdict.word in NOT_DECIDED]
    return f"Could not be decided: {'; '.join(open_ones)}." if open_ones else "Nothing was left undecided."


def _rulers(scores: Sequence[Score]) -> list[str]:
    """Each extractor with the metrics it was used for."""
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
    """Prompts with their pictures, by tag; a prompt of several tags stands under its first."""
    sheets: dict[str, list[Block]] = {}
    for prompt in facts.suite.prompts:
        paths = [facts.pictures[prompt.slug, v] for v in shown if (prompt.slug, v) in facts.pictures]
        if paths:
            block = Block(prompt.text, [picture_url(path) for path in paths])
            sheets.setdefault(prompt.tags[0] if prompt.tags else "other", []).append(block)
    return list(sheets.items())


def _curve(name: str, steps: Sequence[StepRecord]) -> Curve | None:
    values = [(s.step, s.loss if name == "loss" else s.gauges.get(name, float("nan"))) for s in steps]
    values = [(step, value) for step, value in values if abs(value) < float("inf")]
    if len(values) < 2:
        return None
    only = [value for _, value in values]
    least, most, last = min(only), max(only), values[-1][0] or 1
    reach = (most - least) or 1.0
    points = " ".join(
        f"{WIDE * step / last:.1f},{HIGH - 6 - (HIGH - 12) * (value - least) / reach:.1f}" for step, value in values
    )
    return Curve(name.replace("_", " "), points, last + 1, only[0], only[-1], least, most)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    size = abs(value)
    return f"{value:.{0 if size >= 1000 else 1 if size >= 100 else 3}f}"
