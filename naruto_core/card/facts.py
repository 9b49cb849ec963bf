"""The content of a model card: public facts of a run, licences, and Markdown with escaped text."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from naruto_core.domain import DatasetVersion, Run, Score, Variant
from naruto_core.git_info import is_hub_id

if TYPE_CHECKING:  # to read a kept comparison needs no recipe, whose import takes a while
    from naruto_core.recipe import Recipe
    from naruto_core.recipe_sections import DatasetSection, ModelSection

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKUP = re.compile(r"[\\`*_\[\]|~$&<>]")


def escape(text: str) -> str:
    """`text` in one line, escaped so that every Markdown renderer shows it literally.

    It must not be the beginning of a line: markup of line beginnings (`# `, `---`, `1.`) is not escaped.
    """
    return _MARKUP.sub(lambda match: _HTML.get(match[0], f"\\{match[0]}"), " ".join(text.split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


_SDXL, _MINIATURE = "stabilityai/stable-diffusion-xl-base-1.0", "package:naruto_core.mini/weights/base"
_FAN_WIKI = ("lambdalabs/naruto-blip-captions", "lambda/naruto-blip-captions")


def base_licence(model: "ModelSection") -> tuple[str, str]:
    """The hub's identifier of the base model's licence (`unknown` for other models than ours), and a sentence on it."""
    if model.base == _SDXL and is_hub_id(model.base, model.revision):
        terms = f"https://huggingface.co/{_SDXL}/blob/main/LICENSE.md"
        return "openrail++", (
            f"The base model has the [CreativeML Open RAIL++-M licence]({terms}); its restrictions of use apply to "
            "everything that is made from it, this adapter included."
        )
    if model.base == _MINIATURE:
        return "apache-2.0", "The base model is part of the software naruto-sdxl: Apache-2.0."
    return "unknown", "The licence of the base model is not stated here; its terms apply to this adapter too."


def pictures_licence(dataset: "DatasetSection") -> str:
    """A sentence on the terms of the training pictures."""
    if dataset.source.startswith("world:"):
        return (
            "The training pictures were drawn by the software that trained this adapter; they contain no artist's work."
        )
    if not is_hub_id(dataset.source, dataset.revision):
        return (
            "The licence of the training pictures is not stated: before you publish this adapter, make sure that "
            "training on them is allowed, and state their licence here."
        )
    if dataset.source in _FAN_WIKI:
        return (
            "The training pictures were collected from a fan wiki, and their dataset names no licence for them: other "
            "people own the rights. Ask them before you publish or sell pictures of this adapter."
        )
    return f"The licence of the training pictures is not stated here; see the dataset card of {escape(dataset.source)}."


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """A prompt as the trained model gets it, its seed, and a picture of each variant.

    `pictures` are file names relative to the card.
    """

    text: str
    seed: int
    pictures: dict[Variant, str]


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weight files beside a card; names are relative to the card.

    loras, embeddings: for diffusers: LoRA files by style ("" for all styles), and the embeddings of new tokens ("" when
        there are none).
    kohya, words: for ComfyUI: LoRA files by style, and embedding files by the word that stands for new tokens.
    no_kohya: the reason why there is no LoRA file for ComfyUI.
    The last three are empty when nothing for ComfyUI is exported.
    """

    loras: dict[str, str]
    embeddings: str = ""
    kohya: dict[str, str] = field(default_factory=dict[str, str])
    words: dict[str, str] = field(default_factory=dict[str, str])
    no_kohya: str = ""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The facts of a run that its card states.

    base_digest: sha256 over the files of a base model that is a folder; "" when it is not one, or is not readable.
    dataset: that of the first style.
    scores: set scores and means only.
    shown: some of the `n_prompts` prompts of the suite `suite_name`.
    schedule: the base's noise schedule where the recipe or a single file states it, as settings of diffusers.
    """

    run: Run
    recipe: "Recipe"
    dataset: DatasetVersion
    base_digest: str
    files: WeightFiles
    scores: tuple[Score, ...]
    shown: tuple[ShownPrompt, ...]
    suite_name: str
    n_prompts: int
    schedule: Mapping[str, object] = field(default_factory=dict[str, object])
