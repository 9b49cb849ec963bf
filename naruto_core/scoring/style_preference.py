"""The preference of a network for one style over another, for the same content and the same words.

A score such as `clip-content` should not depend on the style of a picture, and it does. Where the drawn world can draw
the same scenes in both styles, this preference is measured (`measure`), and kept by the network's id. It is not one
number: it differs by base style and by how much the words say. Which base style a model draws, and how much of the new
style, is not known. So it is not subtracted; a difference between a base and an adapted model is compared with all
preferences that the network has shown (`Difference.allowing_for`; Imbens and Manski 2004 on such intervals).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from naruto_core.artifacts import write_atomically
from naruto_core.scoring.feature_set import StylePreference, Vector

if TYPE_CHECKING:
    from naruto_core.mini.pretraining.world import Scene
    from naruto_core.scoring.features import Extractor

FILE = Path(__file__).with_name("style_preference.json")
LEFT_OUT = (0.0, 0.5)  # share of the attributes that the words do not name
_DEVIATIONS = 1.96  # standard errors of each mean that the limits include


def known_preference(extractor: str) -> StylePreference | None:
    """The preference that was measured for the network with the id `extractor`; None for all other ones."""
    kept = json.loads(FILE.read_text(encoding="utf-8")).get(extractor)
    return StylePreference(kept["low"], kept["high"], kept["n"]) if kept else None


def limits(differences: Sequence[Vector]) -> StylePreference:
    """The limits over several sets of paired differences (n,): the interval of each mean, and 0."""
    means = [float(values.mean()) for values in differences]
    errors = [float(values.std(ddof=1)) / len(values) ** 0.5 for values in differences]
    low = min(mean - _DEVIATIONS * error for mean, error in zip(means, errors, strict=True))
    high = max(mean + _DEVIATIONS * error for mean, error in zip(means, errors, strict=True))
    return StylePreference(round(min(0.0, low), 4), round(max(0.0, high), 4), min(map(len, differences)))


def measure(extractor: "Extractor", count: int = 200) -> StylePreference:
    """The preference of `extractor`, by `count` scenes drawn in every style, with words that name no style."""
    from naruto_core.mini.pretraining.world import BASE_STYLES, HELD_OUT_STYLE, describe, sample_scene
    from naruto_core.scoring.features import embed_texts
    from naruto_core.scoring.sample_metrics import cosines

    rng = Random("style preference")
    scenes = [sample_scene(rng, HELD_OUT_STYLE) for _ in range(count)]
    texts = [embed_texts(extractor, [describe(scene, rng, drop=share) for scene in scenes]) for share in LEFT_OUT]
    rows = {style: _drawn(extractor, scenes, style) for style in (HELD_OUT_STYLE, *BASE_STYLES)}
    return limits([
        cosines(rows[HELD_OUT_STYLE], words) - cosines(rows[style], words) for words in texts for style in BASE_STYLES
    ])  # fmt: skip


def _drawn(extractor: "Extractor", scenes: "Sequence[Scene]", style: str) -> Vector:
    """Features (n, d) of the scenes in `style`."""
    from naruto_core.mini.pretraining.drawing import draw
    from naruto_core.scoring.features import embed_pictures

    loads = [partial(draw, replace(scene, style=style), Random(i)) for i, scene in enumerate(scenes)]
    return np.concatenate(list(embed_pictures(extractor, loads, 50))).astype(np.float64)


def main() -> None:
    """Measure the miniature's judge anew: `python -m naruto_core.scoring.style_preference`."""
    import torch

    from naruto_core.scoring.features import load_extractor

    judge = load_extractor("package:naruto_core.mini/weights/judge", torch.device("cpu"))
    kept = {judge.id: asdict(measure(judge))}
    write_atomically(FILE, (json.dumps(kept, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
