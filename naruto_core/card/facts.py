"""What a model card tells: everything the record knows of a run that strangers may read."""

from dataclasses import dataclass

from naruto_core.domain import DatasetVersion, Run, Score, Variant
from naruto_core.recipe import Recipe


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """A prompt, its seed, and one picture a variant: file names relative to the card."""

    text: str
    seed: int
    pictures: dict[Variant, str]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """One run as its card tells it.

    `base_digest` is a sha256 over the files of a base model that is a folder ("" when there is none
    to read); `weight_name` is the adapter's file for diffusers, `kohya_name` the one for ComfyUI
    ("" when there is none); `other_weights` are all other weight files. Only set scores belong in
    `scores`, and `shown` are `len(shown)` of `n_prompts` prompts of the suite.
    """

    run: Run
    recipe: Recipe
    dataset: DatasetVersion
    base_digest: str
    weight_name: str
    kohya_name: str
    other_weights: tuple[str, ...]
    scores: tuple[Score, ...]
    shown: tuple[ShownPrompt, ...]
    suite_name: str
    n_prompts: int
