"""A Recipe holds every option of a run, typed; an unknown key is an error.

Profiles are recipe files. Overrides win over the file. There is no
inheritance between files. The resolved recipe and its fingerprint are recorded with the run.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from naruto_core.errors import RecipeInvalid
from naruto_core.recipe_sections import (
    DatasetSection,
    FusionSection,
    GenerationSection,
    ImportedSection,
    ModelSection,
    PublishSection,
    ScoringSection,
    StyleSection,
)
from naruto_core.recipe_text import explain, read_text_file, read_yaml, value_from_text
from naruto_core.recipe_training import Precision, Section, TrainingSection

MAIN_STYLE = "main"  # the name of training.instance_prompt among the styles

# Keys that earlier versions did not have, with their defaults. At its default such a key is not part of the
# fingerprint, so that the same command still finds the runs of those versions.
_LATER_KEYS: dict[str, Any] = {
    "model.config": None,
    "model.config_revision": None,
    "model.prediction_type": None,
    "model.rescale_betas_zero_snr": None,
    "training.init_adapter": None,
    "training.max_token_length": 75,
    "training.processes": 1,
    "training.prior.resolution": None,
    "training.previews.resolution": None,
    "imported": None,
    "fusion.check_pictures": 4,
    "generation.max_token_length": 75,
    "generation.prompt_weights": False,
    "generation.refiner": None,
}

_PICTURE_KEYS = ("suite", "variants", "resolution", "prompts", "seeds")  # what is known of how pictures were drawn


class Recipe(Section):
    """Every option of a run."""

    model_config = ConfigDict(serialize_by_alias=True)

    profile: Annotated[
        str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$", description="Name of the recipe; part of run ids.")
    ]
    model: ModelSection
    dataset: DatasetSection
    styles: tuple[StyleSection, ...] = Field((), description="Further styles, beside the style of `dataset`.")
    training_section: TrainingSection | None = Field(
        None,
        alias="training",
        description="LoRA fine-tuning (Hu et al. 2021) of the attention layers. Required in a recipe file.",
    )
    imported: ImportedSection | None = Field(None, description="Only in the recorded recipe of an import.")
    fusion: FusionSection
    generation: GenerationSection
    scoring: ScoringSection
    publish: PublishSection

    @model_validator(mode="after")
    def _is_trained_or_imported(self) -> "Recipe":
        if self.training_section is None and self.imported is None:
            raise ValueError("the section training is missing")
        if self.training_section is not None and self.imported is not None:
            raise ValueError("imported is written by `naruto import` only: remove this section")
        if self.imported and self.styles:
            raise ValueError("styles cannot be imported: an imported LoRA has one style")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_unknown(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        tree.pop("training" if self.training_section is None else "imported", None)
        if self.imported and self.imported.kind == "pictures" and "base" not in self.generation.variants:
            tree["generation"] = {key: tree["generation"][key] for key in _PICTURE_KEYS}
        return tree

    @model_validator(mode="after")
    def _validation_needs_held_out_pictures(self) -> "Recipe":
        if self.training_section and self.training.validation and not self.dataset.hold_out:
            raise ValueError("training.validation needs held-out pictures: set dataset.hold_out, or validation to null")
        return self

    @model_validator(mode="after")
    def _style_names_and_tokens_are_unique(self) -> "Recipe":
        inversion = self.training_section and self.training_section.textual_inversion
        named = [style.name for style in self.styles]
        tokens = [style.token_abstraction for style in self.styles if style.token_abstraction]
        if tokens and not inversion:
            raise ValueError("styles have a token_abstraction, but training.textual_inversion is null")
        for words in ([MAIN_STYLE, *named], [*tokens, *([inversion.token_abstraction] if inversion else [])]):
            if len(set(words)) < len(words):
                raise ValueError(f"styles: {', '.join(words)} are not all different (the first style is named main)")
        if unknown := set(self.fusion.style_scales) - {MAIN_STYLE, *named}:
            raise ValueError(
                f"fusion.style_scales names {', '.join(sorted(unknown))}, but this recipe has no such style"
            )
        return self

    @model_validator(mode="after")
    def _texts_are_encoded_alike_in_training_and_generation(self) -> "Recipe":
        if self.training_section is None:
            return self
        for key in ("clip_skip", "max_token_length"):
            if getattr(self.training, key) != getattr(self.generation, key):
                raise ValueError(f"training.{key} and generation.{key} must be the same")
        return self

    @property
    def training(self) -> TrainingSection:
        """The section training. Raises RecipeInvalid for an imported run, whose training is unknown."""
        if self.training_section is None:
            raise RecipeInvalid(f"{self.profile} was imported: its training is unknown, so it has no section training.")
        return self.training_section

    @property
    def instance_prompt(self) -> str:
        """The phrase for the first style: the one that training put before every caption; of an import, its own."""
        return self.imported.instance_prompt if self.imported else self.training.instance_prompt

    @property
    def weights_precision(self) -> Precision:
        """The number format in which the base is loaded to merge an adapter: as in training."""
        return self.generation.mixed_precision if self.imported else self.training.mixed_precision

    @property
    def datasets(self) -> tuple[DatasetSection, ...]:
        """The dataset of the recipe's own style, and of each other style, in this order."""
        return (self.dataset, *(style.dataset for style in self.styles))

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The names of the adapters: the styles' names with an adapter per style, else ("",)."""
        per_style = self.styles and self.training.adapters == "per-style"
        return (MAIN_STYLE, *(style.name for style in self.styles)) if per_style else ("",)

    @property
    def new_tokens(self) -> dict[str, str]:
        """Words of prompts and the new tokens that replace them: {"TOK": "<s0><s1>"}; {} without textual inversion."""
        inversion = self.training_section and self.training_section.textual_inversion
        if not inversion:
            return {}
        words = [inversion.token_abstraction, *(s.token_abstraction for s in self.styles if s.token_abstraction)]
        count = inversion.num_new_tokens_per_abstraction
        numbers = [range(index * count, (index + 1) * count) for index in range(len(words))]
        return {word: "".join(f"<s{n}>" for n in part) for word, part in zip(words, numbers, strict=True)}

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON: equal options give the same fingerprint, in whatever form they were written."""
        options = self.model_dump(mode="json")
        for dotted, default in _LATER_KEYS.items():
            *sections, key = dotted.split(".")
            node: Any = options
            for section in sections:
                node = (node or {}).get(section)
            if node and key in node and node[key] == default:
                del node[key]
        training = options.get("training") or {}
        if (prior := training.get("prior")) and prior["seed"] == training["seed"]:
            del prior["seed"]  # as earlier versions drew class pictures, which had no such key
        canonical = json.dumps(options, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in `path`, with dotted `overrides` such as {"training.rank": 8} applied to it.

    Raises RecipeInvalid, naming file, field and reason, for a missing file, broken YAML, an unknown
    key or a value out of range.
    """
    try:
        tree = read_yaml(read_text_file(path))
    except FileNotFoundError:
        raise RecipeInvalid(f"there is no recipe {path}.") from None
    except (OSError, ValueError, RecipeInvalid) as error:  # ValueError: no UTF-8, or a name with a zero byte
        raise RecipeInvalid(f"cannot read recipe {path}: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise RecipeInvalid(f"recipe {path} must be a mapping of sections (model, dataset, training, ...).")
    for dotted, value in (overrides or {}).items():
        _set_override(tree, dotted, value)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeInvalid(f"recipe {path.name}: {explain(error, Recipe)}") from None


def overrides_from_text(pairs: Sequence[str]) -> dict[str, Any]:
    """Overrides for `read_recipe` from KEY=VALUE texts, as typed on a command line.

    Each value is parsed by its field's type (`value_from_text`). Raises RecipeInvalid for a text without KEY=.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise RecipeInvalid(f"--set {pair}: write KEY=VALUE, e.g. --set training.rank=8.")
        overrides[key] = value_from_text(Recipe, key, text)
    return overrides


def _set_override(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    node: Any = tree
    for section in sections:
        if node.get(section) is None:  # a section that the file omits or sets to null
            node[section] = {}
        node = node[section]
        if not isinstance(node, dict):
            raise RecipeInvalid(f"cannot set {dotted}: {section} is not a section.")
    node[key] = deepcopy(value)  # a later override may change a part of it
