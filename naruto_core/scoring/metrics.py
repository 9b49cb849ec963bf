"""How many really different pictures a set holds: the Vendi score (Friedman & Dieng 2023)."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from naruto_core.scoring import fid, mmd, prdc
from naruto_core.scoring.set_metric import Counts, Features, Measure, SetMetric


def vendi_measure(drawn: Features, reference: Features) -> Measure:
    """exp of the entropy of the eigenvalues of the cosine similarities over n: 1 (all alike) to n (all orthogonal).

    Of features of length one; the reference has no say. It grows with n: compare at equal n only.
    """
    del reference
    similar = drawn @ drawn.T

    def measure(counts: Counts) -> float:
        kept = np.flatnonzero(counts)
        weights = np.sqrt(counts[kept] / counts.sum())
        values = np.linalg.eigvalsh(similar[np.ix_(kept, kept)] * weights[:, None] * weights[None, :])
        values = values[values > 1e-12]
        return float(np.exp(-(values * np.log(values)).sum()))

    return measure


SET_METRICS = (
    SetMetric(
        "fid", "Frechet 1", "shift", -1, 2, fid.frechet_measure,
        sees="How far the mean and the spread of the features lie from the reference's.",
        blind="It falls with the number of pictures, and below about 500 it prefers a collapsed model.",
        range=(0, math.inf),
        moments=True,
    ),
    SetMetric(
        "kid", "U-statistic, cubic kernel 1", "shift", -1, 2, mmd.kid_measure,
        sees="A shift of the features, with the same mean at any number of pictures.",
        blind="Lost variety: it is nearly the distance of the means.",
    ),
    SetMetric(
        "cmmd", "U-statistic, sigma 10, x1000, 1", "shift", -1, 2, mmd.cmmd_measure,
        sees="A shift of features of length one, as CLIP's are compared.",
        blind="Lost variety: with so wide a kernel it is the distance of the means.",
        unit=True,
    ),
    SetMetric(
        "mmd", "U-statistic, median width, x1000, 1", "shift", -1, 2, mmd.median_mmd_measure,
        sees="A shift or a change of spread, at the distances that the reference itself has.",
        blind="Differences much finer or much coarser than those distances.",
        unit=True,
    ),
    SetMetric(
        "precision", "5 neighbours 1", "overlap", 1, 8, prdc.precision_measure,
        sees="How many drawn pictures could be reference pictures.",
        blind="Variety: one good picture drawn a hundred times has precision 1.",
        range=(0, 1),
    ),
    SetMetric(
        "density", "5 neighbours 1", "overlap", 1, 8, prdc.density_measure,
        sees="The same, with less say for outliers of the reference.",
        blind="Variety: it even rises when a model collapses to the middle.",
        range=(0, math.inf),
    ),
    SetMetric(
        "recall", "5 neighbours 1", "overlap", 1, 8, prdc.recall_measure,
        least_counted=prdc.NEIGHBOURS + 1,
        sees="How much of the reference could have been drawn.",
        blind="Quality: a model whose pictures are scattered widely has it too.",
        range=(0, 1),
    ),
    SetMetric(
        "coverage", "5 neighbours 1", "overlap", 1, 8, prdc.coverage_measure,
        sees="How much of the reference has a drawn picture near it.",
        blind="How many drawn pictures are near nothing.",
        range=(0, 1),
    ),
    SetMetric(
        "vendi", "cosine 1", "spread", 0, 2, vendi_measure,
        sees="How many really different pictures were drawn.",
        blind="Whether they are good, or in the style: noise has the highest.",
        unit=True,
        range=(1, math.inf),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SampleMetric:
    """A number for each picture; fields as of SetMetric. `optional` ones need a model that the recipe must name."""

    name: str
    version: str
    better: Literal[-1, 0, 1]
    sees: str
    blind: str
    optional: bool = False


SAMPLE_METRICS = (
    SampleMetric(
        "clip", "cosine 1", 1,
        sees="Whether a picture agrees with its whole prompt (cosine of open_clip's embeddings).",
        blind="Counting, order and relations of things; what the network was never taught.",
    ),
    SampleMetric(
        "clip-content", "cosine 1", 1,
        sees="Whether it shows what the prompt asks for, the words of style left out.",
        blind="The style; and what clip is blind to.",
    ),
    SampleMetric(
        "style", "cosine to the reference's centre 1", 1,
        sees="How near a picture lies to the middle of the reference.",
        blind="What it shows; and a picture that is a copy has it too.",
    ),
    SampleMetric(
        "copying", "nearest cosine 1", 0,
        sees="How near a picture comes to its nearest training picture.",
        blind="Copies of a part; within one style everything is near: read it beside the held-out pictures'.",
    ),
    SampleMetric(
        "blank", "flat or cut off 1", -1,
        sees="Pictures without content: one colour, or nearly all pixels black or white.",
        blind="Any picture that has some content, however bad.",
    ),
    SampleMetric(
        "preference", "cosine 1", 1,
        sees="What a model trained on people's choices would choose.",
        blind="Your style, if those people were shown photographs; what they liked is not what you ordered.",
        optional=True,
    ),
    SampleMetric(
        "aesthetic", "linear head 1", 1,
        sees="What people rated beautiful, by a linear head on CLIP.",
        blind="The prompt altogether, and flaws that CLIP does not see.",
        optional=True,
    ),
)  # fmt: skip

BY_NAME: dict[str, SetMetric | SampleMetric] = {metric.name: metric for metric in (*SET_METRICS, *SAMPLE_METRICS)}
