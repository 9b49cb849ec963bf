"""Every metric there is: which way is better, what it sees and what it is blind to.

Set metrics look at all pictures of a model at once; sample metrics give each picture a number of its own, of which the
mean is shown.
"""

import math
from dataclasses import dataclass
from typing import Literal

from naruto_core.scoring import diversity, frechet, kernel, manifold
from naruto_core.scoring.measure import SetMetric

SET_METRICS = (
    SetMetric(
        "fid", "Frechet 1", "shift", -1, 2, frechet.frechet_measure,
        sees="How far the mean and the spread of the features lie from the reference's.",
        blind="It falls with the number of pictures, and below about 500 it prefers a collapsed model.",
        range=(0, math.inf),
        moments=True,
    ),
    SetMetric(
        "kid", "U-statistic, cubic kernel 1", "shift", -1, 2, kernel.kid_measure,
        sees="A shift of the features, with the same mean at any number of pictures.",
        blind="Lost variety: it is nearly the distance of the means.",
    ),
    SetMetric(
        "cmmd", "U-statistic, sigma 10, x1000, 1", "shift", -1, 2, kernel.cmmd_measure,
        sees="A shift of features of length one, as CLIP's are compared.",
        blind="Lost variety: with so wide a kernel it is the distance of the means.",
        unit=True,
    ),
    SetMetric(
        "mmd", "U-statistic, median width, x1000, 1", "shift", -1, 2, kernel.median_mmd_measure,
        sees="A shift or a change of spread, at the distances that the reference itself has.",
        blind="Differences much finer or much coarser than those distances.",
        unit=True,
    ),
    SetMetric(
        "precision", "5 neighbours 1", "overlap", 1, 8, manifold.precision_measure,
        sees="How many drawn pictures could be reference pictures.",
        blind="Variety: one good picture drawn a hundred times has precision 1.",
        range=(0, 1),
    ),
    SetMetric(
        "density", "5 neighbours 1", "overlap", 1, 8, manifold.density_measure,
        sees="The same, with less say for outliers of the reference.",
        blind="Variety: it even rises when a model collapses to the middle.",
        range=(0, math.inf),
    ),
    SetMetric(
        "recall", "5 neighbours 1", "overlap", 1, 8, manifold.recall_measure,
        least_counted=manifold.NEIGHBOURS + 1,
        sees="How much of the reference could have been drawn.",
        blind="Quality: a model whose pictures are scattered widely has it too.",
        range=(0, 1),
    ),
    SetMetric(
        "coverage", "5 neighbours 1", "overlap", 1, 8, manifold.coverage_measure,
        sees="How much of the reference has a drawn picture near it.",
        blind="How many drawn pictures are near nothing.",
        range=(0, 1),
    ),
    SetMetric(
        "vendi", "cosine 1", "spread", 0, 2, diversity.vendi_measure,
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
