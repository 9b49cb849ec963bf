"""What is planted in honest worlds: copies of training pictures, and scores that fell for one kind of prompt."""

import io
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from PIL import Image

from flows.profiles import choose_recipe, choose_suite
from naruto_core.domain import Finding, PromptSuite
from naruto_core.scoring.feature_set import Features, StylePreference, Vector
from naruto_core.scoring.features import pixel_extractor
from naruto_core.scoring.findings import find_generalisation
from naruto_core.scoring.style_preference import limits

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def encoded_again(picture: Image.Image, _: np.random.Generator) -> Image.Image:
    """The picture as JPEG of quality 60."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


def cropped(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A crop of 70 to 100 % of the area, enlarged to the picture's size."""
    side = np.sqrt(rng.uniform(0.7, 1)) * picture.width
    left, top = rng.uniform(0, picture.width - side, 2)
    return picture.resize(picture.size, Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def mirrored(picture: Image.Image, _: np.random.Generator) -> Image.Image:
    """Left and right exchanged."""
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def resized(picture: Image.Image, _: np.random.Generator) -> Image.Image:
    """Reduced to 40 pixels and enlarged again."""
    return picture.resize((40, 40), Image.Resampling.LANCZOS).resize(picture.size, Image.Resampling.BICUBIC)


CHANGES: Mapping[str, Change] = {
    "exact": lambda picture, _: picture,
    "JPEG": encoded_again,
    "resized": resized,
    "mirrored": mirrored,
    "crop": cropped,
    "crop, mirrored, JPEG": lambda picture, rng: encoded_again(mirrored(cropped(picture, rng), rng), rng),
}


def pixel_rows(pictures: list[Image.Image]) -> Features:
    """The features (n, 3072) that `copied_pixels` compares, in half precision as they are kept."""
    network = pixel_extractor().network
    return np.stack([network.prepare(picture).flatten().numpy() for picture in pictures]).astype(np.float16)


@cache
def _suite(name: str) -> PromptSuite:
    return choose_suite(choose_recipe("mini", None, {"generation.suite": name}).generation)


def generalisation(
    suite: str, seed: int, tag: str, drop: float, own: float = 0.0, preference: StylePreference | None = None
) -> Finding:
    """The finding for random scores of two pictures a prompt, which differ by 0.005 (standard deviation).

    The adapted model's scores of the prompts with `tag` are lower by `drop` of these standard deviations. `own` is
    what the network itself prefers the adapted model's style by, and `preference` what is known of that.
    """
    prompts = _suite(suite).prompts
    rng = np.random.default_rng(seed)
    base = rng.normal(0.7, 0.02, len(prompts)).repeat(2) + rng.normal(0, 0.01, 2 * len(prompts))
    fallen = np.array([tag in prompt.tags for prompt in prompts]).repeat(2)
    adapted = base + own + rng.normal(0, 0.005, len(base)) - 0.005 * drop * fallen
    names = [prompt.slug for prompt in prompts for _ in range(2)]
    tags = {prompt.slug: prompt.tags for prompt in prompts}
    return find_generalisation("r", base, adapted, names, tags, preference)


def unknown_preference(rng: np.random.Generator) -> tuple[float, list[Vector]]:
    """What a network prefers the adapted model's style by, in one world, and the differences that were measured there.

    It prefers the new style to each of four base styles by another amount, which 200 scenes measure. The base draws an
    unknown mixture of them, and the adapted model an unknown part of the new style.
    """
    preferences = rng.normal(0, 0.015, 4)
    measured = [rng.normal(mean, 0.04, 200) for mean in preferences]
    own = float(rng.dirichlet(np.full(4, 0.5)) @ preferences * rng.uniform(0.5, 1))
    return own, measured


def blamed_by_preference(worlds: int) -> tuple[float, float]:
    """The share of worlds in which a tag of konoha-v2 is blamed for the network's own preference of a style.

    With the allowance for it, and without.
    """
    rng, blamed = np.random.default_rng(3), np.zeros(2)
    for seed in range(worlds):
        own, measured = unknown_preference(rng)
        known = limits(measured)
        blamed += [generalisation("konoha-v2", seed, "", 0, own, allowed).warning for allowed in (known, None)]
    return float(blamed[0] / worlds), float(blamed[1] / worlds)
