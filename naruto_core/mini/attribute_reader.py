"""The attribute reader: the network that says what a picture of the drawn world shows, and what a prompt asks for.

It is shipped as `weights/reader`: config.json with its attributes and their classes, and model.safetensors. What a
prompt asks for is read from the prompt's own words, so that nothing has to be annotated.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image
from safetensors import SafetensorError

from naruto_core.errors import ModelUnusable
from naruto_core.mini.pretraining.world import STYLE_PHRASES

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from naruto_core.mini.pretraining.attribute_classifier import AttributeClassifier

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_ARTICLE = r"(?:an? |the )?"
_CUT = r"(?: (?:spiky|short|long|straight|curly|wavy|messy))?"

# How a prompt asks for a class of an attribute; `{}` stands for the class.
_PHRASES: dict[str, str] = {
    "hair": rf"{{}}(?:-haired|{_CUT} hair| bob| bun| twin tails)",
    "eyes": r"{}(?:-eyed| eyes)",
    "garment": r"{}(?: \w+)? (?:jacket|kimono|hoodie|shirt|coat|sweater|robe|clothes|clothing)",
    "place": rf"(?:in|at|on|with|under|during) {_ARTICLE}{{}}",
    "expression": r"{}",
    "view": r"{}",
}
_SYNONYMS: dict[str, dict[str, str]] = {
    "hair": {"blonde": "blond", "yellow": "blond", "ginger": "red", "silver": "white"},
    "garment": {"violet": "purple"},
    "place": {"woods": "forest", "grey background": "gray background", "nighttime": "night", "rainy": "rain"},
    "expression": {"happy": "smiling", "smile": "smiling"},
}
_TWO_PEOPLE = re.compile(r"\btwo (?:people|characters|persons|men|women|boys|girls)\b", re.IGNORECASE)
_OF_A_PERSON = frozenset({"hair", "eyes", "garment", "expression", "view"})


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """What a reader reads: pictures of `resolution` pixels, and for each attribute its classes, in order."""

    resolution: int
    attributes: Mapping[str, tuple[str, ...]]


def save_reader(classifier: "AttributeClassifier", config: ReaderConfig, folder: Path) -> None:
    """Write the reader as half-precision weights with its config."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in classifier.state_dict().items()}, folder / WEIGHTS)
    content = {"resolution": config.resolution, "attributes": {k: list(v) for k, v in config.attributes.items()}}
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def read_config(folder: Path) -> ReaderConfig:
    """The config of the reader in `folder`. ModelUnusable where there is none."""
    try:
        content = json.loads((folder / CONFIG).read_text())
        attributes = {str(name): tuple(map(str, words)) for name, words in content["attributes"].items()}
        return ReaderConfig(int(content["resolution"]), attributes)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelUnusable(
            f"{folder}: no attribute reader: give a folder with config.json and model.safetensors."
        ) from error


def load_reader(folder: Path, config: ReaderConfig) -> "AttributeClassifier":
    """The network of the reader in `folder`, for use only. ModelUnusable for weights that are not its own."""
    from safetensors.torch import load_file

    from naruto_core.mini.pretraining.attribute_classifier import AttributeClassifier

    classifier = AttributeClassifier(config.attributes)
    try:
        classifier.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelUnusable(f"{folder}: {WEIGHTS} does not hold the weights of the attribute reader.") from error
    return classifier.float().eval().requires_grad_(False)


def prepare(picture: Image.Image, resolution: int) -> "torch.Tensor":
    """A picture as the reader takes it: (3, resolution, resolution) in -1..1."""
    import torch

    size = (resolution, resolution)
    rgb = picture.convert("RGB")
    pixels = np.asarray(rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1


def embed(classifier: "AttributeClassifier", pictures: "torch.Tensor") -> "torch.Tensor":
    """The logits (n, classes of all attributes) of `pictures` (n, 3, H, W) in -1..1, attribute by attribute."""
    import torch

    logits = cast("dict[str, Any]", classifier(pictures))
    return torch.cat([logits[name] for name in classifier.heads], dim=1)


def seen_classes(logits: "NDArray[np.floating]", config: ReaderConfig) -> dict[str, list[str]]:
    """For every attribute, the class that each picture shows, from its logits (n, classes of all attributes)."""
    seen: dict[str, list[str]] = {}
    start = 0
    for name, words in config.attributes.items():
        best = np.asarray(logits[:, start : start + len(words)]).argmax(axis=1)
        seen[name] = [words[index] for index in best.tolist()]
        start += len(words)
    return seen


def asked_classes(text: str, config: ReaderConfig) -> dict[str, str]:
    """What a prompt asks for: a class for each attribute that it names, {attribute: class}.

    Of two people only place and style count, because the reader was trained on one person; and an attribute with two
    answers ("a red jacket and a blue shirt") does not count.
    """
    asked: dict[str, str] = {}
    for name, words in config.attributes.items():
        if name == "style":
            found = _asked_styles(text, words)
        elif name in _PHRASES and not (name in _OF_A_PERSON and _TWO_PEOPLE.search(text)):
            found = _asked_words(text, name, words)
        else:
            continue
        if len(found) == 1:
            asked[name] = found.pop()
    return asked


def _asked_words(text: str, name: str, words: Sequence[str]) -> set[str]:
    named = {word: word for word in words} | {k: v for k, v in _SYNONYMS.get(name, {}).items() if v in words}
    longest_first = sorted(named, key=len, reverse=True)  # "red background" before "red"
    pattern = _PHRASES[name].format(f"({'|'.join(map(re.escape, longest_first))})")
    return {named[match.lower()] for match in re.findall(rf"\b{pattern}\b", text, re.IGNORECASE)}


def _asked_styles(text: str, words: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for word in words:
        phrases = [word, *(p.removeprefix("a ").removesuffix(" of") for p in STYLE_PHRASES.get(word, ()))]
        if re.search(rf"\b(?:{'|'.join(map(re.escape, phrases))})\b", text, re.IGNORECASE):
            found.add(word)
    return found
