"""A Recipe holds every option of a run, typed; an unknown key is an error.

Profiles are recipe files. Overrides win over the file. There is no
inheritance between files. The resolved recipe and its fingerprint are recorded with the run.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from naruto_core.errors import RecipeInvalid
from naruto_core.recipe_text import explain, read_yaml, value_from_text
from naruto_core.recipe_training import Precision, Section, TrainingSection
from naruto_core.sampling import SAMPLERS, SamplerName

RESAMPLES = 1000  # behind every interval, unless a recipe's scoring.resamples says otherwise
MAIN_STYLE = "main"  # the name of training.instance_prompt among the styles


ReferencePart = Literal["held-out", "training"]


class ModelSection(Section):
    """The base model. A name is a hub id, a folder, or `package:<package>/<folder>` for files
    that ship inside a Python package; the base model may be one .safetensors file too."""

    base: str = Field(
        min_length=1,
        description="Hub id, folder, package:<package>/<folder>, or one .safetensors file: a path, or "
        "owner/name/file.safetensors of the hub.",
    )
    revision: str | None = Field(None, description="Commit hash of a hub id: pins what is downloaded.")
    vae: str | None = Field(None, description="A VAE that replaces the base model's own.")
    vae_revision: str | None = Field(None, description="Commit hash of a hub id in `vae`.")
    variant: str | None = Field(
        None, description="File variant, e.g. fp16. A folder that has no such files is read without it."
    )
    config: str | None = Field(
        None,
        description="Hub id or folder with configurations and tokenizers for a single file; null: those of SDXL base "
        "1.0, which most single files need.",
    )
    config_revision: str | None = Field(None, description="Commit hash of a hub id in `config`.")
    prediction_type: Literal["epsilon", "v_prediction"] | None = Field(
        None, description="What the UNet predicts: the noise, or v; null: as the model's files say."
    )
    rescale_betas_zero_snr: bool | None = Field(
        None, description="Noise schedule with a zero terminal SNR (Lin et al. 2023); null: as the model's files say."
    )

    @model_validator(mode="after")
    def _noise_schedule_is_possible(self) -> "ModelSection":
        if self.prediction_type == "epsilon" and self.rescale_betas_zero_snr:
            raise ValueError(
                "rescale_betas_zero_snr needs prediction_type v_prediction: at a zero SNR the noise alone is no target"
            )
        return self


class DatasetSection(Section):
    """The source of captioned pictures, and how many of them are held out of training."""

    source: str = Field(
        min_length=1, description="Hub id, parquet file or folder, imagefolder, save_to_disk folder, or world:<style>."
    )
    revision: str | None = Field(None, description="Commit hash of a hub id: pins what is downloaded.")
    image_column: str = Field("image", min_length=1, description="Column with the pictures.")
    caption_column: str = Field("text", min_length=1, description="Column with the captions.")
    hold_out: int = Field(
        0,
        ge=0,
        description="Pictures held out of training as the reference set; 0: all are trained on and are reference.",
    )
    max_quarantined: float = Field(
        0.05, ge=0, le=1, description="Largest share of broken records; above it, the run stops."
    )


class StyleSection(Section):
    """A further style, trained in the same run on its own dataset."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$", description="Name of the style.")]
    dataset: DatasetSection
    instance_prompt: str = Field(min_length=1, description="Fixed prompt that is put before each of its captions.")
    token_abstraction: str | None = Field(
        None, pattern=r"^\w[\w -]*$", description="The word for this style's new tokens; needs textual_inversion."
    )
    loss_weight: float = Field(1.0, gt=0, le=100, description="Weight of this style's loss.")
    repeats: int = Field(1, ge=1, le=1000, description="How often each of its pictures is shown in an epoch.")


class FusionSection(Section):
    """Merging the adapter into the weights: W + scale * alpha/rank * B A."""

    lora_scale: float = Field(1.0, ge=-4, le=4, description="Scale of the adapter; 1: as trained.")
    style_scales: dict[str, Annotated[float, Field(ge=-4, le=4)]] = Field(
        {}, description="With an adapter per style: the scale of each by name; a style without entry has lora_scale."
    )
    check_pictures: int = Field(
        4,
        ge=0,
        le=1000,
        description="Pictures of the fused model that are compared with the adapted model's; 0: no check.",
    )


class GenerationSection(Section):
    """Generation of the sample pictures for all prompts and seeds of a suite."""

    suite: str = Field(min_length=1, description="Name of a prompt suite in flows/prompts, or a path to one.")
    variants: tuple[Literal["base", "adapted", "fused"], ...] = Field(
        ("base", "adapted"), min_length=1, description="Models that draw the samples."
    )
    resolution: int = Field(ge=16, le=2048, multiple_of=8, description="Side of a drawn picture, in pixels.")
    num_inference_steps: int = Field(30, ge=1, le=1000, description="Denoising steps of a picture.")
    guidance_scale: float = Field(7.5, ge=0, le=100, description="Classifier-free guidance; 1 or less: none.")
    negative_prompt: str = Field("", description="Prompt for what pictures should not show.")
    scheduler: SamplerName = Field("ddim", description="The sampler.")
    batch_size: int = Field(
        1, ge=1, le=256, description="Pictures per batch; a picture is reproducible only with the same batch size."
    )
    mixed_precision: Precision = Field("fp16", description="Number format of weights and activations.")
    clip_skip: int | None = Field(
        None,
        ge=1,
        le=11,
        description="Number of further last text encoder layers to skip; as in training. null: SDXL's own, which "
        "A1111 calls clip skip 2.",
    )
    prompts: int | None = Field(None, ge=1, description="Draw only the first N prompts; null: all.")
    seeds: int | None = Field(None, ge=1, description="Draw only the first N seeds of the suite; null: all.")

    @model_validator(mode="after")
    def _the_sampler_has_so_many_steps(self) -> "GenerationSection":
        most = SAMPLERS[self.scheduler].most_steps
        if most and self.num_inference_steps > most:
            raise ValueError(f"scheduler {self.scheduler} has at most {most} steps: set num_inference_steps")
        return self

    @property
    def drawing_options(self) -> dict[str, Any]:
        """The options that a picture depends on, as JSON; not those that choose which pictures are drawn."""
        return self.model_dump(mode="json", exclude={"suite", "variants", "prompts", "seeds"})

    def at_resolution(self, resolution: int | None) -> "GenerationSection":
        """The same section with pictures of another side, in pixels; None: unchanged."""
        return self.model_copy(update={"resolution": resolution or self.resolution})


class ScoringSection(Section):
    """The networks that measure, and the statistics. Scores of different extractors are never compared."""

    set_extractor: str = Field(
        min_length=1,
        description="Network for set metrics: inception, or an open_clip model (folder or name/pretrained).",
    )
    pair_extractor: str = Field(
        min_length=1, description="open_clip model for the CLIP score: package:..., folder, or name/pretrained."
    )
    more_set_extractors: tuple[str, ...] = Field(
        (),
        description="Further networks for the Fréchet distance (metric fd), e.g. timm:<folder of DINOv2> or "
        "timm:<owner>/<name>@<commit>.",
    )
    reference: ReferencePart = Field(
        "held-out",
        description="Reference set of set metrics: the held-out pictures, or the training pictures (a larger set). "
        "The other set stands for a perfect model.",
    )
    preference_model: str | None = Field(
        None,
        description="open_clip model of human preferences, named like pair_extractor; adds the metric preference.",
    )
    aesthetic_head: str | None = Field(
        None,
        description="Safetensors file with weight (1, d) and bias (1), a linear head on the pair extractor's features "
        "(normalized to length 1); adds the metric aesthetic.",
    )
    primary: tuple[str, ...] = Field(
        ("mmd", "clip-content"),
        description="Metrics that decide the verdict, chosen before the run; others are exploratory.",
    )
    batch_size: int = Field(32, ge=1, description="Pictures per batch of a measuring network.")
    resamples: int = Field(
        RESAMPLES, ge=100, le=1_000_000, description="Bootstrap resamples for intervals of means and of differences."
    )
    seed: int = Field(0, ge=0, description="Seed of the resamples.")


class PublishSection(Section):
    """Push of the adapter to a model hub after training."""

    push_to_hub: bool = Field(False, description="Push at the end of the run; needs HF_TOKEN.")
    hub_model_id: str | None = Field(None, description="Repository, e.g. your-name/naruto-lora.")
    private: bool = Field(True, description="Make the repository private; a public one is refused.")

    @model_validator(mode="after")
    def _push_needs_a_repository(self) -> "PublishSection":
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id, e.g. your-name/naruto-lora")
        return self


class Recipe(Section):
    """Every option of a run."""

    profile: Annotated[
        str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$", description="Name of the recipe; part of run ids.")
    ]
    model: ModelSection
    dataset: DatasetSection
    styles: tuple[StyleSection, ...] = Field((), description="Further styles, beside the style of `dataset`.")
    training: TrainingSection
    fusion: FusionSection
    generation: GenerationSection
    scoring: ScoringSection
    publish: PublishSection

    @model_validator(mode="after")
    def _validation_needs_held_out_pictures(self) -> "Recipe":
        if self.training.validation and not self.dataset.hold_out:
            raise ValueError("training.validation needs held-out pictures: set dataset.hold_out, or validation to null")
        return self

    @model_validator(mode="after")
    def _style_names_and_tokens_are_unique(self) -> "Recipe":
        inversion = self.training.textual_inversion
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
    def _clip_skip_is_equal_in_training_and_generation(self) -> "Recipe":
        if self.training.clip_skip != self.generation.clip_skip:
            raise ValueError("training.clip_skip and generation.clip_skip must be the same")
        return self

    @property
    def datasets(self) -> tuple[DatasetSection, ...]:
        """The dataset of the recipe's own style, and of each other style, in this order."""
        return (self.dataset, *(style.dataset for style in self.styles))

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The names of the adapters: the styles' names with an adapter per style, else ("",)."""
        per_style = self.training.adapters == "per-style" and self.styles
        return (MAIN_STYLE, *(style.name for style in self.styles)) if per_style else ("",)

    @property
    def new_tokens(self) -> dict[str, str]:
        """Words of prompts and the new tokens that replace them: {"TOK": "<s0><s1>"}; {} without textual inversion."""
        if not (inversion := self.training.textual_inversion):
            return {}
        words = [inversion.token_abstraction, *(s.token_abstraction for s in self.styles if s.token_abstraction)]
        count = inversion.num_new_tokens_per_abstraction
        numbers = [range(index * count, (index + 1) * count) for index in range(len(words))]
        return {word: "".join(f"<s{n}>" for n in part) for word, part in zip(words, numbers, strict=True)}

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON: equal options give the same fingerprint, in whatever form they were written."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in `path`, with dotted `overrides` such as {"training.rank": 8} applied to it.

    Raises RecipeInvalid, naming file, field and reason, for a missing file, broken YAML, an unknown
    key or a value out of range.
    """
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeInvalid(f"there is no recipe {path}.") from None
    except (OSError, UnicodeDecodeError, RecipeInvalid) as error:
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
    node[key] = value
