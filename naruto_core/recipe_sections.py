"""The sections of a recipe but training: base model, data, fusion, generation, scoring, publication, import."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from naruto_core.recipe_training import Precision, Section, TokenLength
from naruto_core.sampling import SAMPLERS, SamplerName

RESAMPLES = 1000  # of bootstrap intervals, unless a recipe's scoring.resamples says otherwise

ReferencePart = Literal["held-out", "training"]
DrawnBy = Literal["base", "adapted", "fused"]


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
        min_length=1,
        description="Folder of pictures (caption files, kohya's folders, metadata.jsonl or .csv, or no captions), zip "
        "or tar of them, parquet file or folder, save_to_disk folder, hub id, or world:<style>.",
    )
    revision: str | None = Field(None, description="Commit hash of a hub id: pins what is downloaded.")
    image_column: str = Field("image", min_length=1, description="Column with the pictures, or with their file names.")
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


class RefinerSection(Section):
    """SDXL's refiner: a second model that does the last denoising steps of every sample (Podell et al. 2023, 2.5)."""

    base: str = Field(min_length=1, description="Hub id, folder, or package:<package>/<folder> of the refiner.")
    revision: str | None = Field(None, description="Commit hash of a hub id: pins what is downloaded.")
    variant: str | None = Field(None, description="File variant of a hub id, e.g. fp16.")
    high_noise_frac: float = Field(0.8, gt=0, lt=1, description="Share of the steps that the base model does.")


class GenerationSection(Section):
    """Generation of the sample pictures for all prompts and seeds of a suite."""

    suite: str = Field(min_length=1, description="Name of a prompt suite in flows/prompts, or a path to one.")
    variants: tuple[DrawnBy, ...] = Field(
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
    mixed_precision: Precision = Field(
        "fp16",
        description="Number format of weights and activations; bf16 is computed in fp32 on a CPU without bf16 "
        "instructions.",
    )
    clip_skip: int | None = Field(
        None,
        ge=1,
        le=11,
        description="Number of further last text encoder layers to skip; as in training. null: SDXL's own, which "
        "A1111 calls clip skip 2.",
    )
    max_token_length: TokenLength = Field(
        75, description="Tokens of a prompt that are read: 75, 150 or 225, in chunks of 75; as in training."
    )
    prompt_weights: bool = Field(
        False, description="(red hair:1.2) in a prompt weighs these words, from 0 to 2; else it is text as any other."
    )
    refiner: RefinerSection | None = Field(
        None, description="Second stage of every sample; null: none. Previews and class pictures are never refined."
    )
    prompts: int | None = Field(None, ge=1, description="Draw only the first N prompts; null: all.")
    seeds: int | None = Field(None, ge=1, description="Draw only the first N seeds of the suite; null: all.")

    @property
    def drawing_options(self) -> dict[str, Any]:
        """The options that a picture depends on, as JSON; not those that choose which pictures are drawn."""
        options = self.model_dump(mode="json", exclude={"suite", "variants", "prompts", "seeds"})
        if not self.prompt_weights:  # which earlier versions did not have: their cached pictures still count
            del options["prompt_weights"]
        return options

    def at_resolution(self, resolution: int | None) -> "GenerationSection":
        """The section for class pictures and previews: of another side, in pixels (None: unchanged), not refined."""
        return self.model_copy(update={"resolution": resolution or self.resolution, "refiner": None})

    @field_validator("variants")
    @classmethod
    def _order_of_variants_means_nothing(cls, names: tuple[DrawnBy, ...]) -> tuple[DrawnBy, ...]:
        return tuple(sorted(set(names), key=get_args(DrawnBy).index))

    @model_validator(mode="after")
    def _the_sampler_has_so_many_steps(self) -> "GenerationSection":
        most = SAMPLERS[self.scheduler].most_steps
        if most and self.num_inference_steps > most:
            raise ValueError(f"scheduler {self.scheduler} has at most {most} steps: set num_inference_steps")
        return self

    @model_validator(mode="after")
    def _the_refiner_reads_one_chunk(self) -> "GenerationSection":
        if self.refiner and self.prompt_weights:
            raise ValueError("the refiner reads no weights: set prompt_weights to false, or refiner to null")
        if self.refiner and self.max_token_length > 75:
            raise ValueError("the refiner reads 75 tokens: set max_token_length to 75, or refiner to null")
        return self


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
        description="Further networks for the Fréchet and the kernel distance (fd-<name>, kd-<name>), e.g. "
        "transformers:facebook/dinov2-large@<commit> or timm:<folder>.",
    )
    cmmd_extractor: str | None = Field(
        None,
        description="Network for cmmd apart from that of the CLIP score, e.g. "
        "open_clip:timm/vit_large_patch14_clip_336.openai@<commit>; null: the pair extractor.",
    )
    reference: ReferencePart = Field(
        "held-out",
        description="Reference set of set metrics: the held-out pictures, or the training pictures (a larger set). "
        "The other set stands for a perfect model.",
    )
    preference_model: str | None = Field(
        None,
        description="Model of human preferences that reads pictures and texts, e.g. PickScore "
        "(transformers:yuvalkirstain/PickScore_v1@<commit>), or an open_clip model; adds the metric preference.",
    )
    attribute_reader: str | None = Field(
        None,
        description="Folder of an attribute reader (package:naruto_core.mini/weights/reader); adds attributes and "
        "attributes-hair, -garment, -place, -style, ...",
    )
    vqa_model: str | None = Field(
        None,
        description="BLIP model that answers questions on pictures, a folder or <owner>/<name>@<commit>; adds vqa.",
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
    batch_size: int = Field(32, ge=1, le=4096, description="Pictures per batch of a measuring network.")
    resamples: int = Field(
        RESAMPLES,
        ge=100,
        le=1_000_000,
        description="Bootstrap resamples of how well a metric tells base from real.",
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


class ImportedSection(Section):
    """What `naruto import` recorded instead of a training. A recipe file has no such section."""

    kind: Literal["lora", "pictures"] = Field(description="A LoRA file, or pictures.")
    name: str = Field(min_length=1, max_length=300, description="Name of the file, or of the model that drew pictures.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Of the file; of all names, prompts, seeds and pictures."
    )
    instance_prompt: str = Field(min_length=1, description="The phrase for the style in prompts and captions.")
    trigger: str | None = Field(None, min_length=1, max_length=200, description="The LoRA's trigger word, if given.")
    format: Literal["kohya", "diffusers", "peft"] | None = Field(None, description="Key names of the LoRA file.")
    rank: tuple[int, int] | None = Field(None, description="Smallest and largest rank in the LoRA file.")
    modules: int | None = Field(None, ge=1, description="Number of adapted modules in the LoRA file.")
    use_dora: bool = Field(False, description="Whether the file is a DoRA.")
    facts: dict[str, str] = Field({}, description="What the file's metadata says of its training (ss_*, modelspec.*).")

    @property
    def sentence(self) -> str:
        """What was imported, for people."""
        if self.kind == "pictures":
            return f"Pictures of {self.name}, imported: how they were drawn is unknown."
        low, high = self.rank or (0, 0)
        ranks = f"rank {low}" if low == high else f"ranks {low} to {high}"
        kind = "DoRA" if self.use_dora else "LoRA"
        return (
            f"Imported from {self.name} (sha256 {self.sha256[:12]}), a {kind} in {self.format} form, {ranks}, "
            f"{self.modules} modules: its training is unknown."
        )
