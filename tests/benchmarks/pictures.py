"""Captioned pictures in both forms a benchmark needs: encoded for our loop, a folder of files for others.

Everybody learns from the same pixels and the same words: the texts are whole, nothing is put before them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from naruto_core.domain import Progress
from naruto_core.mini.pretraining.evaluation import drawings
from naruto_core.prompts import join_caption
from naruto_core.training.latent_cache import CaptionedPicture, EncodingOptions, Examples, encode_examples

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


SIZE = 64  # pixels; what a benchmark compares is the same at half the miniature's size, and quicker


def _ignore(_: Progress) -> None: ...


@dataclass(frozen=True, slots=True)
class Pictures:
    """`pixels` uint8 (N, R, R, 3); picture i shows `texts[i]`."""

    pixels: np.ndarray
    texts: tuple[str, ...]

    def encoded(self, pipeline: "StableDiffusionXLPipeline", folder: Path, with_text: bool = True) -> Examples:
        """As our loop sees them; the encodings are kept below `folder`."""

        def read(name: str, _view: int) -> CaptionedPicture:
            index = int(name)
            pixels = self.pixels[index]
            return CaptionedPicture(name, self.texts[index], pixels, (pixels.shape[0], pixels.shape[1]), (0, 0))

        names = [str(index) for index in range(len(self.texts))]
        return encode_examples(pipeline, [names], read, EncodingOptions("", with_text), folder, _ignore)

    def write(self, folder: Path, captions: bool) -> Path:
        """PNG files, and beside them the texts as `datasets` looks for them in an imagefolder, if asked."""
        folder.mkdir(parents=True)
        names = [f"{index:04d}.png" for index in range(len(self.texts))]
        for name, pixels in zip(names, self.pixels, strict=True):
            Image.fromarray(pixels).save(folder / name)
        if captions:
            rows = [{"file_name": name, "text": text} for name, text in zip(names, self.texts, strict=True)]
            (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return folder


def draw_pictures(style: str, count: int, seed: int, instance_prompt: str) -> Pictures:
    """Fresh drawings of `style`, captioned by what tells them apart: the hair."""
    pixels, scenes = drawings(style, count, seed, SIZE)
    hair = [f"with {scene.characters[0].hair} hair" for scene in scenes]
    return Pictures(pixels, tuple(join_caption(instance_prompt, caption) for caption in hair))


def draw_class_pictures(style: str, count: int, seed: int, class_prompt: str) -> Pictures:
    """Fresh drawings of `style`, all under one class prompt."""
    return Pictures(drawings(style, count, seed, SIZE)[0], (class_prompt,) * count)
