"""How often findings are wrong, by simulation: false alarms in honest worlds, and what is found of what was planted."""

import numpy as np
from PIL import Image

from naruto_core.mini.pretraining.evaluation import drawings
from naruto_core.mini.pretraining.world import HELD_OUT_STYLE
from naruto_core.scoring.copied_pixels import match_pixels
from naruto_core.scoring.drift import Values, shift
from naruto_core.scoring.memorization import FALSE_ALARM, copy_margin
from naruto_core.serving import DriftVerdict
from tests.naruto_core.scoring.planted import CHANGES, generalisation, pixel_rows

Rate = dict[str, float]


def rates() -> dict[str, Rate]:
    """Each rate, 0 to 1, with its n."""
    return {**copied_pixels(), **kinds_of_prompts(), **drift()}


def copied_pixels(worlds: int = 600) -> dict[str, Rate]:
    """300 trained on, 200 held out, 176 drawn: honest worlds with a named picture, and copies found of each kind."""
    rng = np.random.default_rng(0)
    pool = [Image.fromarray(pixels) for pixels in drawings(HELD_OUT_STYLE, 1000, 101)[0]]
    training = pixel_rows(pool[:300])
    new = match_pixels(pixel_rows(pool[300:]), training).correlation
    of_training = match_pixels(training, training, same=True).correlation
    copies = {
        name: match_pixels(pixel_rows([change(picture, rng) for picture in pool[:300]]), training).correlation
        for name, change in CHANGES.items()
    }
    alarms, found = 0, dict.fromkeys(copies, 0)
    for _ in range(worlds):
        pictures = rng.permutation(new)
        margin = copy_margin(np.concatenate([pictures[:200], of_training]), 176, FALSE_ALARM / 2)
        alarms += bool((pictures[200:376] > margin).any())
        for name, correlation in copies.items():
            found[name] += int((correlation > margin).sum())
    return {"false alarms, copies": {"rate": alarms / worlds, "n": worlds}} | {
        f"copies found, {name}": {"rate": count / (300 * worlds), "n": 300 * worlds} for name, count in found.items()
    }


def kinds_of_prompts(worlds: int = 200) -> dict[str, Rate]:
    """konoha-v2: runs in which any tag is blamed, and runs in which a drop of 25 standard deviations is found."""
    honest = [generalisation("konoha-v2", seed, "", 0).warning for seed in range(worlds)]
    planted = [generalisation("konoha-v2", seed, "out-of-domain", 25).sentence for seed in range(worlds)]
    return {
        "false alarms, any tag": {"rate": float(np.mean(honest)), "n": worlds},
        "drop of a tag found": {
            "rate": float(np.mean(["does: out-of-domain (" in sentence for sentence in planted])),
            "n": worlds,
        },
    }


def drift(worlds: int = 200) -> dict[str, Rate]:
    """Unchanged models that are called drifted: 30 served and 44 own prompts of four pictures."""
    rng = np.random.default_rng(1)

    def pictures(prompts: int) -> Values:
        values = rng.normal(0, 1, prompts).repeat(4) + rng.normal(0, 1, 4 * prompts)
        return Values(values, [str(n) for n in range(prompts) for _ in range(4)])

    verdicts = [shift(pictures(30), pictures(44), share=False, seed=0).verdict for _ in range(worlds)]
    return {"false alarms, drift": {"rate": verdicts.count(DriftVerdict.DRIFTED) / worlds, "n": worlds}}
