"""What a model card tells: everything the record knows of a run that strangers may read."""

from dataclasses import dataclass, field

from naruto_core.domain import DatasetVersion, Run, Score, Variant
from naruto_core.recipe import Recipe


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
