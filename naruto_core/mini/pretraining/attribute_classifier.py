"""The attribute classifier: a small network that predicts what a picture of the drawn world shows.

It is trained on drawings of the world and on what the VAE makes of them, because all pictures of a model come out of
its VAE; it sees no picture of the UNet. It measures the quality of the base model: does the hair have the colour of the
prompt? It is independent of the judge. `naruto_core.mini.attribute_reader` ships it as a metric.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from naruto_core.mini.pretraining.corpus import Annotation
from naruto_core.mini.pretraining.drawing import SIZE
from naruto_core.mini.pretraining.trainer import FitConfig, FitReport, fit, half_precision
from naruto_core.mini.pretraining.vae import to_unit_range
from naruto_core.mini.pretraining.world import (
    EXPRESSIONS,
    EYE_COLOURS,
    GARMENT_COLOURS,
    HAIR_COLOURS,
    PLACES,
    STYLES,
    VIEWS,
    Scene,
)

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hair": HAIR_COLOURS,
    "garment": GARMENT_COLOURS,
    "place": PLACES,
    "style": STYLES,
    "eyes": EYE_COLOURS,
    "view": VIEWS,
    "expression": EXPRESSIONS,
}
BATCH = 48


def attribute_labels(scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """For every attribute, the class index (B,) of each scene; of two characters, the left one's."""

    def index(scene: Scene) -> tuple[int, ...]:
        character = scene.characters[0]
        of_character = (character.eyes, character.view, character.expression)
        values = (character.hair, character.garment_colour, scene.place, scene.style, *of_character)
        return tuple(words.index(v) for words, v in zip(ATTRIBUTES.values(), values, strict=True))

    table = torch.tensor([index(scene) for scene in scenes])
    return {name: table[:, column] for column, name in enumerate(ATTRIBUTES)}


def _block(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, 3, padding=1), nn.GroupNorm(8, width_out), nn.SiLU(),
        nn.Conv2d(width_out, width_out, 3, padding=1), nn.GroupNorm(8, width_out), nn.SiLU(),
    )  # fmt: skip


class AttributeClassifier(nn.Module):
    """Maps pictures (B, 3, 128, 128) in -1..1 to logits (B, classes) for every attribute of `attributes`."""

    def __init__(self, attributes: Mapping[str, Sequence[str]] = ATTRIBUTES) -> None:
        super().__init__()
        pool = nn.AvgPool2d(2)
        stem = nn.Sequential(nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.SiLU())  # the full size would take most time
        self.body = nn.Sequential(
            stem, _block(24, 32), pool, _block(32, 64), pool, _block(64, 128), pool, _block(128, 128), pool
        )
        self.heads = nn.ModuleDict({name: nn.Linear(128 * 16, len(words)) for name, words in attributes.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(pictures).flatten(1)
        return {name: head(features) for name, head in self.heads.items()}


def _augment(pictures: torch.Tensor, numbers: np.random.Generator) -> torch.Tensor:
    """Augmentation: the pictures slightly shifted and with noise; every fourth batch blurred."""
    shift = [int(s) for s in numbers.integers(-6, 7, size=2)]
    pictures = torch.roll(pictures, shift, (2, 3))
    if numbers.random() < 0.25:  # rarely: the pixel style is told from the flat one by its edges alone
        factor = float(numbers.uniform(0.6, 0.95))
        small = F.interpolate(pictures, scale_factor=factor, mode="bilinear", antialias=True)
        pictures = F.interpolate(small, size=SIZE, mode="bilinear")
    noise = torch.from_numpy(numbers.standard_normal(pictures.shape, dtype=np.float32))
    return pictures + noise * float(numbers.uniform(0, 0.12))


@dataclass(frozen=True, slots=True)
class Gallery:
    """Drawings, uint8 (N, 128, 128, 3), their annotations, and the first M of them after a VAE round trip (M <= N)."""

    pixels: np.ndarray
    annotations: list[Annotation]
    decoded: np.ndarray


def train_classifier(
    gallery: Gallery,
    steps: int,
    seed: int,
    checkpoint: Path,
    on_report: Callable[[FitReport], None],
) -> AttributeClassifier:
    """Train the classifier on the pictures of `gallery` with one character; half of each batch are decoded ones."""
    torch.manual_seed(seed)
    classifier = AttributeClassifier()
    scenes = [annotation.scene for annotation in gallery.annotations]
    usable = np.array([i for i, scene in enumerate(scenes) if scene and len(scene.characters) == 1])
    both = ((gallery.decoded, usable[usable < len(gallery.decoded)]), (gallery.pixels, usable))

    def loss(step: int) -> torch.Tensor:
        numbers = np.random.default_rng((seed, step))
        chosen = [(pixels, np.sort(numbers.choice(rows, size=BATCH // 2))) for pixels, rows in both]
        pictures = torch.cat([to_unit_range(pixels[rows]) for pixels, rows in chosen])
        labels = attribute_labels([scene for _, rows in chosen for row in rows if (scene := scenes[row])])
        with half_precision():
            logits = classifier(_augment(pictures, numbers))
        return torch.stack([F.cross_entropy(logits[name].float(), labels[name]) for name in ATTRIBUTES]).mean()

    fit(FitConfig("reader", steps, 2.0e-3), {"reader": classifier}, loss, checkpoint, on_report)
    return classifier.eval()


@torch.no_grad()
def classify(classifier: AttributeClassifier, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """The most likely class index (B,) for every attribute; `pictures` (B, 3, 128, 128) in -1..1."""
    parts = [classifier(batch) for batch in pictures.split(128)]
    return {name: torch.cat([part[name] for part in parts]).argmax(dim=1) for name in ATTRIBUTES}
