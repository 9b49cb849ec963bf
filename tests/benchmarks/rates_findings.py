"""How often findings are wrong, by simulation: false alarms in honest worlds, and what is found of what was planted."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image

from naruto_core.mini.pretraining.evaluation import drawings
from naruto_core.mini.pretraining.world import HELD_OUT_STYLE
from naruto_core.scoring.copied_pixels import match_pixels
from naruto_core.scoring.drift import Values, shift
from naruto_core.scoring.feature_set import Features, Vector
from naruto_core.scoring.features import embed_pictures, load_extractor
from naruto_core.scoring.memorization import FALSE_ALARM, copy_margin, nearest
from naruto_core.serving import DriftVerdict
from tests.benchmarks.bench_rates import Rate, at_least, at_most
from tests.naruto_core.scoring.planted import CHANGES, blamed_by_preference, generalisation, pixel_rows

JUDGE = "package:naruto_core.mini/weights/judge"
TRAINED_ON, HELD_OUT, DRAWN = 300, 200, 176
WORLDS = 600


def rates(seconds: float) -> Iterator[Rate]:
    """Every claim with its rate; copies take two minutes of CPU, whatever `seconds` says."""
    yield from copies()
    yield from kinds_of_prompts(max(200, round(seconds * 2)))
    yield from drift(max(200, round(seconds * 10)))


def judge_rows(pictures: list[Image.Image]) -> Features:
    """The judge's features (n, d) of `pictures`, in half precision as they are kept."""
    extractor = load_extractor(JUDGE, lambda: torch.device("cpu"))
    loads = [partial(Image.Image.copy, picture) for picture in pictures]
    return np.concatenate(list(embed_pictures(extractor, loads, 64))).astype(np.float16)


def copies() -> Iterator[Rate]:
    """300 trained on, 200 held out, 176 drawn: honest worlds with a named picture, and copies found of each kind.

    As in a run, a picture is named by the judge's features or by its pixels, each with half of the false alarm rate.
    """
    rng = np.random.default_rng(0)
    pool = [Image.fromarray(pixels) for pixels in drawings(HELD_OUT_STYLE, 1000, 101)[0]]
    trained_on, new = pool[:TRAINED_ON], pool[TRAINED_ON:]
    pixels, features = pixel_rows(trained_on), judge_rows(trained_on)
    of_training = match_pixels(pixels, pixels, same=True).correlation
    of_new = match_pixels(pixel_rows(new), pixels).correlation, nearest(judge_rows(new), features)[0]
    of_copies: dict[str, tuple[Vector, Vector]] = {}
    for name, change in CHANGES.items():
        changed = [change(picture, rng) for picture in trained_on]
        of_copies[name] = (
            match_pixels(pixel_rows(changed), pixels).correlation,
            nearest(judge_rows(changed), features)[0],
        )
    alarms, found = 0, dict.fromkeys(of_copies, 0)
    for _ in range(WORLDS):
        order = rng.permutation(len(new))
        held_out, drawn = order[:HELD_OUT], order[HELD_OUT : HELD_OUT + DRAWN]
        margins = (
            copy_margin(np.concatenate([of_new[0][held_out], of_training]), DRAWN, FALSE_ALARM / 2),
            copy_margin(of_new[1][held_out], DRAWN, FALSE_ALARM / 2),
        )
        alarms += bool(_named(of_new, margins)[drawn].any())
        for name, nearness in of_copies.items():
            found[name] += int(_named(nearness, margins).sum())
    yield Rate("an honest run has a picture that is named as a copy", alarms / WORLDS, WORLDS, 0.0, alarms == 0)
    for name, count in found.items():
        n = TRAINED_ON * WORLDS
        yield at_least(f"a copy is named ({name})", count / n, n, 0.99)


def _named(nearness: tuple[Vector, Vector], margins: tuple[float, float]) -> np.ndarray:
    """Which pictures (n,) are beyond the margin of their pixels or of their features."""
    return (nearness[0] > margins[0]) | (nearness[1] > margins[1])


def kinds_of_prompts(worlds: int) -> Iterator[Rate]:
    """konoha-v2: runs in which any tag is blamed, and runs in which a drop of 25 standard deviations is found."""
    honest = [generalisation("konoha-v2", seed, "", 0).warning for seed in range(worlds)]
    planted = [generalisation("konoha-v2", seed, "out-of-domain", 25).sentence for seed in range(worlds)]
    yield at_most("a tag of konoha-v2 is blamed where nothing changed", float(np.mean(honest)), worlds, 0.05)
    found = float(np.mean(["does: out-of-domain (" in sentence for sentence in planted]))
    yield at_least("a drop of a tag by 25 standard deviations is found", found, worlds, 0.99)
    blamed, unallowed = blamed_by_preference(worlds)
    yield at_most("a tag is blamed for the network's own preference of a style", blamed, worlds, 0.05)
    yield Rate("the same without the allowance for it", unallowed, worlds, 0.0, ok=True)


def drift(worlds: int) -> Iterator[Rate]:
    """Unchanged models that are called drifted: 30 served and 44 own prompts of four pictures."""
    rng = np.random.default_rng(1)

    def pictures(prompts: int) -> Values:
        values = rng.normal(0, 1, prompts).repeat(4) + rng.normal(0, 1, 4 * prompts)
        return Values(values, [str(n) for n in range(prompts) for _ in range(4)])

    verdicts = [shift(pictures(30), pictures(44), share=False).verdict for _ in range(worlds)]
    share = verdicts.count(DriftVerdict.DRIFTED) / worlds
    yield at_most("an unchanged model is called drifted", share, worlds, 0.05)
