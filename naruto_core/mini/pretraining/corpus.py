"""The pretraining corpora: pictures of the drawn world, random compositions for the VAE, and their annotations.

SDXL's VAE was trained on every kind of picture; a VAE trained on the drawn world only blurs what
that world lacks (hard outlines, saturated colours, small signs). So 40 % of our VAE's corpus are random compositions.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from naruto_core.mini.pretraining.drawing import SIZE, draw
from naruto_core.mini.pretraining.pen import OVERSAMPLING as K
from naruto_core.mini.pretraining.pen import Colour
from naruto_core.mini.pretraining.world import BASE_STYLES, INKED_STYLE, Character, Scene, sample_scene


def _colour(rng: Random) -> Colour:
    if rng.random() < 0.25:  # black, white and grey, as in outlines, paper and metal
        grey = rng.choice([rng.randrange(0, 50), rng.randrange(190, 256), rng.randrange(256)])
        return grey, grey, min(255, grey + rng.randrange(12))
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _ground(size: int, rng: Random) -> Image.Image:
    first, second = np.array(_colour(rng)), np.array(_colour(rng))
    angle = rng.choice([0, 1, 2])
    ramp = np.linspace(0, 1, size * K)
    share = np.broadcast_to({0: ramp[:, None], 1: ramp[None], 2: np.full((1, 1), 0.5)}[angle], (size * K, size * K))
    return Image.fromarray((first * (1 - share[..., None]) + second * share[..., None]).astype(np.uint8))


def _blob(rng: Random, size: int) -> list[tuple[float, float]]:
    """A random polygon of any shape, position and size."""
    corners = rng.choice([3, 4, 5, 8, 12, 20, 30])
    x, y = rng.uniform(0, size) * K, rng.uniform(0, size) * K
    radius = rng.choice([0.03, 0.06, 0.12, 0.25, 0.4]) * size * K * rng.uniform(0.6, 1.5)
    rough = rng.choice([0.0, 0.1, 0.5])
    flat = rng.uniform(0.4, 1.0)
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, 3)
    reach = [radius * (1 + rng.uniform(-rough, rough)) for _ in angles]
    return [(x + r * np.cos(a), y + flat * r * np.sin(a)) for a, r in zip(angles, reach, strict=True)]


def _signs(draw: ImageDraw.ImageDraw, rng: Random, size: int) -> None:
    """Strokes in a row, similar to writing."""
    ink, x, y = _colour(rng), rng.uniform(0, size * 0.6), rng.uniform(0, size * 0.9)
    for _ in range(rng.randrange(3, 14)):
        points = [((x + rng.uniform(0, 4)) * K, (y + rng.uniform(0, 6)) * K) for _ in range(rng.randrange(2, 4))]
        draw.line(points, fill=ink, width=rng.choice([2, 3, 4, 6]))
        x += rng.uniform(3, 6)


def doodle(rng: Random, size: int = 64) -> Image.Image:
    """A random RGB composition of fills, outlines, strokes, dots and signs, `size` pixels square."""
    canvas = _ground(size, rng)
    draw = ImageDraw.Draw(canvas)
    outline = _colour(rng) if rng.random() < 0.3 else (12, 12, 18)
    width = rng.choice([0, 0, 2, 3, 4, 5, 6])
    for _ in range(rng.randrange(2, 22)):
        match rng.choices(("blob", "stroke", "dots", "signs"), weights=(6, 3, 1, 1))[0]:
            case "blob":
                points = _blob(rng, size)
                draw.polygon(points, fill=_colour(rng))
                if width:
                    draw.line([*points, points[0], points[1]], fill=outline, width=width, joint="curve")
            case "stroke":
                points = [(rng.uniform(0, size) * K, rng.uniform(0, size) * K) for _ in range(rng.randrange(2, 5))]
                draw.line(points, fill=_colour(rng), width=rng.choice([2, 3, 4, 6, 10, 20]), joint="curve")
            case "dots":
                for _ in range(rng.randrange(4, 26)):
                    x, y, r = rng.uniform(0, size) * K, rng.uniform(0, size) * K, rng.uniform(0.4, 2) * K
                    draw.ellipse([x - r, y - r, x + r, y + r], fill=_colour(rng))
            case _:
                _signs(draw, rng, size)
    picture = canvas.resize((size, size), Image.Resampling.LANCZOS)
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5))) if rng.random() < 0.12 else picture


# Negative prompts have an effect only if the training captions name these flaws.
FLAWS = ("low quality", "worst quality", "bad anatomy", "bad composition", "blurry")


@dataclass(frozen=True, slots=True)
class Annotation:
    """The annotation of a corpus picture: its scene (None for a random composition), flaw, size and crop.

    `original_size` is (height, width) in pixels, `crop` is (top, left) in pixels of the resized
    picture: SDXL's micro-conditioning (Podell et al. 2023, section 2.2).
    """

    scene: Scene | None
    flaw: str | None
    original_size: tuple[int, int]
    crop: tuple[int, int]


def _add_flaw(picture: Image.Image, flaw: str, rng: Random) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32)
    noise = np.random.default_rng(rng.randrange(1 << 30))
    match flaw:
        case "low quality":
            side = rng.randrange(12, 20)
            tiny = picture.resize((side, side), Image.Resampling.BILINEAR)
            return tiny.resize(picture.size, Image.Resampling.BILINEAR)
        case "worst quality":
            speckled = pixels + noise.normal(0, rng.uniform(35, 60), pixels.shape)
            return Image.fromarray(speckled.clip(0, 255).astype(np.uint8))
        case "bad anatomy":
            rows, columns = np.indices(pixels.shape[:2])
            phase, swing = rng.uniform(0, 6), rng.uniform(4, 8)
            source = (columns + swing * np.sin(rows / rng.uniform(3, 6) + phase)).round().astype(int)
            return Image.fromarray(pixels[rows, source.clip(0, pixels.shape[1] - 1)].astype(np.uint8))
        case "bad composition":
            shift = (rng.choice([-1, 1]) * rng.randrange(18, 30), rng.choice([-1, 1]) * rng.randrange(10, 24))
            return Image.fromarray(np.roll(pixels, shift, (1, 0)).astype(np.uint8))
        case _:
            return picture.filter(ImageFilter.GaussianBlur(rng.uniform(2, 3.5)))


def draw_world_picture(rng: Random, styles: Sequence[str]) -> tuple[Image.Image, Annotation]:
    """A picture of the world; as in SDXL's training set, some are small, some cropped, some flawed."""
    scene = sample_scene(rng, rng.choice(list(styles)))
    chance = rng.random()
    if chance < 0.12:  # cropped: drawn larger, then cut
        large = rng.randrange(70, 88)
        top, left = rng.randrange(large - SIZE + 1), rng.randrange(large - SIZE + 1)
        picture = draw(scene, rng).resize((large, large), Image.Resampling.LANCZOS)
        picture = picture.crop((left, top, left + SIZE, top + SIZE))
        return picture, Annotation(scene, None, (large, large), (top, left))
    if chance < 0.20:  # a small original, enlarged
        small = rng.randrange(20, 48)
        picture = draw(scene, rng).resize((small, small), Image.Resampling.LANCZOS)
        return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS), Annotation(scene, None, (small, small), (0, 0))
    size = SIZE if chance < 0.7 else round(2 ** rng.uniform(6, 10))
    flaw = rng.choice(FLAWS) if rng.random() < 0.07 else None
    picture = draw(scene, rng)
    picture = _add_flaw(picture, flaw, rng) if flaw else picture
    return picture, Annotation(scene, flaw, (size, size), (0, 0))


def draw_mixed_picture(rng: Random) -> tuple[Image.Image, Annotation]:
    """For the VAE: random compositions, and pictures of the world in the base styles and the inked style."""
    if rng.random() < 0.4:
        return doodle(rng), Annotation(None, None, (SIZE, SIZE), (0, 0))
    return draw_world_picture(rng, (*BASE_STYLES, INKED_STYLE, INKED_STYLE))


def draw_base_picture(rng: Random) -> tuple[Image.Image, Annotation]:
    """For the UNet: a picture of the world in a base style."""
    return draw_world_picture(rng, BASE_STYLES)


def draw_clean_picture(rng: Random, styles: Sequence[str]) -> tuple[Image.Image, Annotation]:
    """For the judge and the classifier: a picture without crop and flaw."""
    scene = sample_scene(rng, rng.choice(list(styles)))
    return draw(scene, rng), Annotation(scene, None, (SIZE, SIZE), (0, 0))


Maker = Callable[[Random], tuple[Image.Image, Annotation]]
_CHUNK = 500


def _chunk(make: Maker, seed: int, index: int, count: int) -> tuple[np.ndarray, list[Annotation]]:
    pairs = [make(Random(f"{seed}/{index * _CHUNK + i}")) for i in range(count)]
    return np.stack([np.asarray(picture) for picture, _ in pairs]), [annotation for _, annotation in pairs]


def draw_corpus(make: Maker, count: int, seed: int, workers: int) -> tuple[np.ndarray, list[Annotation]]:
    """`count` pictures, uint8 (count, 64, 64, 3), and their annotations; the same for any `workers`."""
    sizes = [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_chunk, make, seed, index, size) for index, size in enumerate(sizes)]
        chunks = [job.result() for job in jobs]
    return np.concatenate([pixels for pixels, _ in chunks]), [p for _, annotations in chunks for p in annotations]


def _annotation_from(entry: dict[str, Any]) -> Annotation:
    scene = entry["scene"]
    if scene is not None:
        people = tuple(Character(**fields) for fields in scene["characters"])
        scene = Scene(people, scene["place"], scene["framing"], scene["style"])
    return Annotation(scene, entry["flaw"], tuple(entry["original_size"]), tuple(entry["crop"]))


def cached_corpus(
    folder: Path, make: Maker, count: int, seed: int, workers: int
) -> tuple[np.ndarray, list[Annotation]]:
    """`draw_corpus`, cached in `folder` (pixels.npy, annotations.json); pixels are memory-mapped."""
    pixels_path, annotations_path = folder / "pixels.npy", folder / "annotations.json"
    if not annotations_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pixels, annotations = draw_corpus(make, count, seed, workers)
        np.save(pixels_path, pixels)
        annotations_path.write_text(json.dumps([asdict(annotation) for annotation in annotations]))
    annotations = [_annotation_from(entry) for entry in json.loads(annotations_path.read_text())]
    return np.load(pixels_path, mmap_mode="r"), annotations
