"""The pretraining corpora: pictures of the drawn world, random compositions for VAE and judge, and their annotations.

A corpus is a folder of one array of pixels, which is read memory-mapped, and of one file of annotations for every 500
pictures. That file is written after its pictures: an interrupted corpus is completed, not begun again.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from naruto_core.artifacts import write_atomically
from naruto_core.mini.pretraining.composition import random_composition
from naruto_core.mini.pretraining.drawing import SIZE, draw
from naruto_core.mini.pretraining.world import BASE_STYLES, INKED_STYLE, Character, Scene, sample_scene

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
            side = rng.randrange(20, 36)
            tiny = picture.resize((side, side), Image.Resampling.BILINEAR)
            return tiny.resize(picture.size, Image.Resampling.BILINEAR)
        case "worst quality":
            speckled = pixels + noise.normal(0, rng.uniform(35, 60), pixels.shape)
            return Image.fromarray(speckled.clip(0, 255).astype(np.uint8))
        case "bad anatomy":
            rows, columns = np.indices(pixels.shape[:2])
            phase, swing = rng.uniform(0, 6), rng.uniform(8, 16)
            source = (columns + swing * np.sin(rows / rng.uniform(6, 12) + phase)).round().astype(int)
            return Image.fromarray(pixels[rows, source.clip(0, pixels.shape[1] - 1)].astype(np.uint8))
        case "bad composition":
            shift = (rng.choice([-1, 1]) * rng.randrange(36, 60), rng.choice([-1, 1]) * rng.randrange(40, 96))
            return Image.fromarray(np.roll(pixels, shift, (1, 0)).astype(np.uint8))
        case _:
            return picture.filter(ImageFilter.GaussianBlur(rng.uniform(4, 7)))


def draw_world_picture(rng: Random, styles: Sequence[str]) -> tuple[Image.Image, Annotation]:
    """A picture of the world; as in SDXL's training set, some are small, some cropped, some flawed."""
    scene = sample_scene(rng, rng.choice(list(styles)))
    chance = rng.random()
    if chance < 0.12:  # cropped: drawn larger, then cut
        large = rng.randrange(140, 176)
        top, left = rng.randrange(large - SIZE + 1), rng.randrange(large - SIZE + 1)
        picture = draw(scene, rng).resize((large, large), Image.Resampling.LANCZOS)
        picture = picture.crop((left, top, left + SIZE, top + SIZE))
        return picture, Annotation(scene, None, (large, large), (top, left))
    if chance < 0.20:  # a small original, enlarged
        small = rng.randrange(40, 96)
        picture = draw(scene, rng).resize((small, small), Image.Resampling.LANCZOS)
        return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS), Annotation(scene, None, (small, small), (0, 0))
    size = SIZE if chance < 0.7 else round(2 ** rng.uniform(7, 10))
    flaw = rng.choice(FLAWS) if rng.random() < 0.07 else None
    picture = draw(scene, rng)
    picture = _add_flaw(picture, flaw, rng) if flaw else picture
    return picture, Annotation(scene, flaw, (size, size), (0, 0))


def draw_mixed_picture(rng: Random) -> tuple[Image.Image, Annotation]:
    """For the VAE: random compositions, and pictures of the world in the base styles and the inked style."""
    if rng.random() < 0.6:
        return random_composition(rng, SIZE), Annotation(None, None, (SIZE, SIZE), (0, 0))
    return draw_world_picture(rng, (*BASE_STYLES, *(INKED_STYLE,) * 4))


def draw_base_picture(rng: Random) -> tuple[Image.Image, Annotation]:
    """For the UNet: a picture of the world in a base style."""
    return draw_world_picture(rng, BASE_STYLES)


def draw_clean_picture(rng: Random, styles: Sequence[str]) -> tuple[Image.Image, Annotation]:
    """For the judge and the classifier: a picture without crop and flaw."""
    scene = sample_scene(rng, rng.choice(list(styles)))
    return draw(scene, rng), Annotation(scene, None, (SIZE, SIZE), (0, 0))


Maker = Callable[[Random], tuple[Image.Image, Annotation]]
OnDrawn = Callable[[int], None]  # called with the number of pictures done, first with that of earlier processes
_CHUNK = 500


def _chunks(count: int) -> list[range]:
    return [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]


def _annotation_file(folder: Path, index: int) -> Path:
    return folder / f"annotations-{index:04d}.json"


def _draw_chunk(folder: Path, make: Maker, seed: int, index: int, rows: range) -> int:
    """Draw the pictures of one chunk into their `rows` of the array, then write their annotations; how many."""
    pixels = np.load(folder / "pixels.npy", mmap_mode="r+")
    annotations: list[dict[str, Any]] = []
    for row in rows:
        picture, annotation = make(Random(f"{seed}/{row}"))
        pixels[row] = np.asarray(picture)
        annotations.append(asdict(annotation))
    pixels.flush()
    write_atomically(_annotation_file(folder, index), json.dumps(annotations).encode())
    return len(rows)


def _annotation_from(entry: dict[str, Any]) -> Annotation:
    scene = entry["scene"]
    if scene is not None:
        people = tuple(Character(**fields) for fields in scene.pop("characters"))
        scene = Scene(people, **scene)
    return Annotation(scene, entry["flaw"], tuple(entry["original_size"]), tuple(entry["crop"]))


def corpus(
    folder: Path, make: Maker, count: int, seed: int, workers: int, on_drawn: OnDrawn
) -> tuple[np.ndarray, list[Annotation]]:
    """`count` pictures, uint8 (count, 128, 128, 3), memory-mapped, and their annotations; drawn where they are missing.

    The same for any number of `workers`, and after any interruption.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, chunks = folder / "pixels.npy", _chunks(count)
    missing = [index for index in range(len(chunks)) if not _annotation_file(folder, index).exists()]
    if missing:
        if not path.exists():
            np.lib.format.open_memmap(path, "w+", np.uint8, (count, SIZE, SIZE, 3)).flush()
        done = count - sum(len(chunks[index]) for index in missing)
        on_drawn(done)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(_draw_chunk, folder, make, seed, index, chunks[index]) for index in missing]
            for job in as_completed(jobs):
                done += job.result()
                on_drawn(done)
    entries = (entry for i in range(len(chunks)) for entry in json.loads(_annotation_file(folder, i).read_text()))
    return np.load(path, mmap_mode="r"), [_annotation_from(entry) for entry in entries]
