"""What a model card is written from: public facts of a run, known licences, and Markdown that escapes text."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from naruto_core.domain import DatasetVersion, Run, Score, Variant
from naruto_core.git_info import is_hub_id
from naruto_core.recipe import DatasetSection, ModelSection, Recipe

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKUP = re.compile(r"[\\`*_\[\]|~$&<>]")


def escape(text: str) -> str:
    """`text` in one line, shown letter by letter by any Markdown renderer.

    It must not begin a line: what is markup only there (`# `, `---`, `1.`) is left as it is.
    """
    return _MARKUP.sub(lambda found: _HTML.get(found[0], f"\\{found[0]}"), " ".join(text.split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


_SDXL, _MINIATURE = "stabilityai/stable-diffusion-xl-base-1.0", "package:naruto_core.mini/weights/base"
_FAN_WIKI = ("lambdalabs/naruto-blip-captions", "lambda/naruto-blip-captions")


def base_licence(model: ModelSection) -> tuple[str, str]:
    """The hub's identifier of the base model's licence, `unknown` where it is not known here; and a sentence on it."""
    if model.base == _SDXL and is_hub_id(model.base, model.revision):
        terms = f"https://huggingface.co/{_SDXL}/blob/main/LICENSE.md"
        return "openrail++", (
            f"The base model is given under the [CreativeML Open RAIL++-M licence]({terms}); its restrictions of use "
            "go with everything that is made from it, this adapter included."
        )
    if model.base == _MINIATURE:
        return "apache-2.0", "The base model is part of the software that trained this adapter: Apache-2.0."
    return "unknown", "The licence of the base model is not stated here; its terms hold for this adapter too."


def pictures_licence(dataset: DatasetSection) -> str:
    """A sentence on the terms of the training pictures."""
    if dataset.source.startswith("world:"):
        return (
            "The training pictures were drawn by the software that trained this adapter; no artist's work is in them."
        )
    if not is_hub_id(dataset.source, dataset.revision):
        return (
            "The licence of the training pictures is not stated: whoever publishes this adapter must know that it "
            "may be trained on them, and say so here."
        )
    if dataset.source in _FAN_WIKI:
        return (
            "The training pictures were collected from a fan wiki, and their dataset names no licence for them: the "
            "rights lie with others. Ask before you publish or sell what this adapter draws."
        )
    return f"The licence of the training pictures is not stated here; see the dataset card of {escape(dataset.source)}."


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """A prompt as what was trained read it, its seed, and one picture a variant: file names relative to the card."""

    text: str
    seed: int
    pictures: dict[Variant, str]


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weight files beside a card, by their names relative to it.

    For diffusers: `loras` by style ("" for one that is for all styles), and `embeddings` of new tokens ("" without).
    For ComfyUI: `kohya` by style, `words` with the embeddings of each word for new tokens, or in words why there
    is no LoRA for it; all three empty when nothing for ComfyUI is handed out.
    """

    loras: dict[str, str]
    embeddings: str = ""
    kohya: dict[str, str] = field(default_factory=dict[str, str])
    words: dict[str, str] = field(default_factory=dict[str, str])
    no_kohya: str = ""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """One run as its card tells it.

    `base_digest` is a sha256 over the files of a base model that is a folder ("" when there is none
    to read). `dataset` is the first style's. Only set scores belong in `scores`, and `shown` are
    `len(shown)` of `n_prompts` prompts of the suite.
    """

    run: Run
    recipe: Recipe
    dataset: DatasetVersion
    base_digest: str
    files: WeightFiles
    scores: tuple[Score, ...]
    shown: tuple[ShownPrompt, ...]
    suite_name: str
    n_prompts: int
