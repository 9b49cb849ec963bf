"""A ladder of made-up generators whose order is known, and the value of every metric for each of them.

The drawn world is the truth: drawings of the held-out style to compare with, others that were
"trained on", and six generators, from perfect down to one that copies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from naruto_core.mini.pretraining.evaluation import drawings
from naruto_core.mini.pretraining.world import BASE_STYLES, HELD_OUT_STYLE, Scene
from naruto_core.scoring import memorization, sample_metrics
from naruto_core.scoring.feature_set import each_once
from naruto_core.scoring.features import Extractor, Rows, embed_pictures
from naruto_core.scoring.metrics import SET_METRICS

Pixels = np.ndarray
RUNGS = ("perfect", "fewer hair colours", "wrong style", "base", "collapsed", "copies")
WORSE = RUNGS[1:]


@dataclass(frozen=True, slots=True)
class Ladder:
    """Features of the reference, of the training pictures, and of what each generator drew."""

    reference: Rows
    training: Rows
    drawn: Mapping[str, Rows]


def build_ladder(extractor: Extractor, n: int, n_training: int = 300, n_reference: int = 200) -> Ladder:
    """The features by `extractor` of `n` pictures of each generator, a multiple of 8."""

    def rows(pixels: Pixels) -> Rows:
        loads: list[Callable[[], Image.Image]] = [lambda p=picture: Image.fromarray(p) for picture in pixels]
        return np.concatenate(list(embed_pictures(extractor, loads, 64)))

    training = drawings(HELD_OUT_STYLE, n_training, 101)[0]
    new = drawings(HELD_OUT_STYLE, n, 102)[0]
    two_colours = drawings(HELD_OUT_STYLE, n, 108, wanted=_has_two_colours)[0]
    each = -(-n // len(BASE_STYLES))
    base = np.concatenate([drawings(style, each, 103 + i)[0] for i, style in enumerate(BASE_STYLES)])[:n]
    made = {
        "perfect": new,
        "fewer hair colours": two_colours,
        "wrong style": drawings("flat", n, 107)[0],
        "base": base,
        "collapsed": np.repeat(new[:8], n // 8, axis=0),
        "copies": training[:n],
    }
    assert all(len(pixels) == n for pixels in made.values())
    embedded = {name: rows(pixels) for name, pixels in made.items()}
    return Ladder(rows(drawings(HELD_OUT_STYLE, n_reference, 100)[0]), rows(training), embedded)


def _has_two_colours(scene: Scene) -> bool:
    return all(character.hair in ("blond", "red") for character in scene.characters)


def ladder_values(ladder: Ladder) -> dict[str, dict[str, float]]:
    """Every set metric, style closeness and copying of every generator: {metric: {rung: value}}."""
    values: dict[str, dict[str, float]] = {}
    n = len(ladder.drawn["perfect"])
    for metric in SET_METRICS:
        reference = ladder.reference[:n] if metric.axis == "overlap" else ladder.reference
        values[metric.name] = {
            name: metric.measure(rows, reference)(each_once(n)) for name, rows in ladder.drawn.items()
        }
    held_out = sample_metrics.nearness(ladder.reference, ladder.training)
    values["style"] = {
        n: float(sample_metrics.style_closeness(r, ladder.reference).mean()) for n, r in ladder.drawn.items()
    }
    values["flagged as copies"] = {
        name: float(
            (
                memorization.ranks(sample_metrics.nearness(rows, ladder.training), held_out) <= memorization.FLAGGED
            ).mean()
        )
        for name, rows in ladder.drawn.items()
    }
    margin = memorization.copy_margin(held_out, n)
    values["named as copies"] = {
        name: float((sample_metrics.nearness(rows, ladder.training) > margin).mean())
        for name, rows in ladder.drawn.items()
    }
    return values


def failed_rungs(values: Mapping[str, float], better: int) -> list[str]:
    """The rungs that a metric does not rank below the perfect generator; for `better` 0, those with no lower value."""
    sign = better or 1
    return [rung for rung in WORSE if sign * values[rung] >= sign * values["perfect"]]
