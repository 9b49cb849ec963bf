"""The training section of a recipe: data, optimizer, loss, adapter, validation and previews.

Names are diffusers' where it has the option, else kohya's. Every option is off unless the recipe sets it.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Precision = Literal["fp32", "bf16", "fp16"]
LoraLayer = Literal[
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "time_emb_proj",
    "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv",
]  # fmt: skip
MAX_INT = 2**53  # whole numbers up to it are exact in JSON, in a database and in a float
MAX_RATE = 1000  # of learning; above it every weight is lost in the first step
LONGEST_TEXT = 225  # tokens; kohya's largest value too
# the encoders read 75 tokens at once
TokenLength = Annotated[int, Field(ge=75, le=LONGEST_TEXT, multiple_of=75)]
Beta = Annotated[float, Field(ge=0, lt=1)]
ATTENTION: tuple[LoraLayer, ...] = ("to_k", "to_out.0", "to_q", "to_v")


class Section(BaseModel):
    """A section of a recipe: immutable; unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="after")
    def _integers_are_exact(self) -> Self:
        for name, value in self:
            if isinstance(value, int) and abs(value) > MAX_INT:
                raise ValueError(f"{name} is larger than {MAX_INT:,}")
        return self


class PriorSection(Section):
    """Prior preservation: for class prompts, the adapted model keeps drawing what the base draws (Ruiz et al. 2022)."""

    kind: Literal["class_images", "base_prediction"] = Field(
        "class_images",
        description="Learn from pictures that the base drew, or from its prediction with the adapter disabled.",
    )
    class_prompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1,
        description="Prompts that both models must draw alike; each gets the same number of pictures.",
    )
    num_class_images: int = Field(
        100, ge=1, le=100_000, description="Number of class pictures to draw, for class_images."
    )
    resolution: int | None = Field(
        None,
        ge=16,
        le=2048,
        multiple_of=8,
        description="Side of a drawn class picture, in pixels; null: generation.resolution.",
    )
    seed: int = Field(
        42,
        ge=0,
        lt=2**31,
        description="Seed of the drawn class pictures; trainings with different seeds share them.",
    )
    class_batch_size: int = Field(1, ge=1, le=256, description="Prior pictures added to each batch.")
    prior_loss_weight: float = Field(1.0, gt=0, le=100, description="Weight of the prior's loss.")


class ValidationSection(Section):
    """A validation loss of the adapter on held-out pictures of `training.resolution`, at fixed timesteps and noises."""

    validation_steps: int = Field(100, ge=1, description="Optimizer steps between two measurements.")
    num_validation_images: int = Field(16, ge=1, le=10_000, description="Number of held-out pictures.")


class PreviewSection(Section):
    """Every N steps: the adapter's files, a sample sheet beside the base model's pictures, and two metrics."""

    preview_steps: int = Field(100, ge=1, description="Optimizer steps between two previews.")
    prompts: int = Field(4, ge=1, le=64, description="The first N prompts of the suite, one picture each.")
    resolution: int | None = Field(
        None,
        ge=16,
        le=2048,
        multiple_of=8,
        description="Side of a preview picture, in pixels; null: generation.resolution.",
    )
    score: bool = Field(True, description="Measure the preview pictures with the recipe's pair extractor.")


class StageSection(Section):
    """A stage of training: `steps` optimizer steps at one resolution."""

    resolution: int = Field(ge=16, le=2048, multiple_of=8, description="Side of the square crops, in pixels.")
    steps: int = Field(ge=1, description="Optimizer steps at this resolution.")


class AugmentationSection(Section):
    """Several views of every picture, encoded once; each use of a picture takes a random view."""

    views: int = Field(4, ge=2, le=64, description="Number of views of each picture.")
    random_flip: bool = Field(
        False, description="Mirror half of the views; only for styles where left and right do not matter."
    )
    random_crop: bool = Field(False, description="Crop anywhere along the longer side instead of at the centre.")
    color_jitter: float = Field(
        0.0, ge=0, le=0.5, description="Brightness, contrast and saturation vary by up to this share."
    )
    shuffle_caption: bool = Field(False, description="Shuffle the comma-separated parts of a caption.")

    @model_validator(mode="after")
    def _views_differ(self) -> "AugmentationSection":
        if not (self.random_flip or self.random_crop or self.color_jitter or self.shuffle_caption):
            raise ValueError("all views would be equal: set random_flip, random_crop, color_jitter or shuffle_caption")
        return self


class TextualInversionSection(Section):
    """New tokens with trained embeddings (Gal et al. 2022), alone or with LoRA (pivotal tuning)."""

    token_abstraction: str = Field(
        "TOK",
        pattern=r"^\w[\w -]*$",
        description="The word that is replaced by the new tokens in prompts and captions.",
    )
    num_new_tokens_per_abstraction: int = Field(2, ge=1, le=64, description="Number of new tokens per word.")
    initializer_concept: str | None = Field(
        None, min_length=1, description="Words whose embeddings are the initial values; null: random."
    )
    learning_rate: float = Field(1.0, gt=0, le=MAX_RATE, description="Learning rate of the new embeddings.")
    pivot_step: int | None = Field(None, ge=1, description="The tokens are frozen from this step on; null: never.")
    train_lora: bool = Field(True, description="False: train the tokens only.")


class StyleLossSection(Section):
    """Style loss: distance of the Gram matrices of the denoised and the real picture (Gatys et al. 2016)."""

    features: Literal["latent", "decoder"] = Field(
        "latent", description="Latents, or the VAE decoder's first features."
    )
    weight: float = Field(0.1, gt=0, le=1000, description="Weight of the style loss relative to the noise loss.")


class UnfreezeSection(Section):
    """Adapter weights that are frozen until `step`."""

    modules: str = Field(min_length=1, description="Prefix of their names, e.g. unet.up_blocks.1 or text_encoder_2.")
    step: int = Field(ge=1, description="The optimizer step from which they learn.")


class TrainingSection(Section):
    """LoRA fine-tuning (Hu et al. 2021) of the attention layers, or of more."""

    instance_prompt: str = Field(min_length=1, description="Prompt that is put before every caption.")
    resolution: int = Field(ge=16, le=2048, multiple_of=8, description="Side of the square crops, in pixels.")
    stages: tuple[StageSection, ...] | None = Field(
        None,
        min_length=1,
        description="Progressive resolution: stages one after the other; null: all steps at `resolution`.",
    )
    bucket_reso_steps: int | None = Field(
        None,
        ge=8,
        multiple_of=8,
        description="Aspect buckets whose sides are multiples of this; null: square centre crops.",
    )
    train_batch_size: int = Field(1, ge=1, le=256, description="Pictures of one forward and backward pass.")
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=256, description="Forward and backward passes per optimizer step."
    )
    fit_memory: bool = Field(
        False,
        description="Split the effective batch and use gradient checkpointing where the device's memory is too small.",
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, more time.")
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes of one machine that train together, each on a device of its own; each adds its batch "
        "to the effective batch.",
    )
    max_train_steps: int = Field(500, ge=1, le=10_000_000, description="Optimizer steps.")
    mixed_precision: Precision = Field(
        "fp16",
        description="Number format of frozen weights and activations; bf16 is computed in fp32 on a CPU without bf16 "
        "instructions.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all random numbers of the training.")

    optimizer: Literal["prodigy", "adamw", "adamw8bit"] = Field(
        "prodigy", description="Prodigy estimates its own step size."
    )
    learning_rate: float = Field(
        1.0, gt=0, le=MAX_RATE, description="With Prodigy a factor on its own step size, usually 1."
    )
    text_encoder_lr: float | None = Field(
        None, gt=0, le=MAX_RATE, description="Learning rate of LoRA on both text encoders; null: they are frozen."
    )
    text_encoder_stop_step: int | None = Field(
        None, ge=1, description="The text encoders are frozen from this step on."
    )
    prodigy_separate_d: bool = Field(False, description="Prodigy estimates one step size per parameter group.")
    adam_weight_decay: float = Field(1.0e-4, ge=0, le=MAX_RATE, description="Weight decay, for every optimizer.")
    adam_betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Betas, for every optimizer.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    lr_scheduler: Literal["constant", "cosine"] = Field("constant", description="Schedule of the learning rate.")
    lr_warmup_steps: int = Field(0, ge=0, description="Steps in which the rate rises from 0.")
    unfreeze: tuple[UnfreezeSection, ...] = Field(
        (), description="Gradual unfreezing; weights that are not named learn from the first step."
    )

    snr_gamma: float | None = Field(5.0, gt=0, description="Min-SNR weighting (Hang et al. 2023); null: none.")
    debiased_estimation: bool = Field(False, description="Weights 1/sqrt(SNR) instead (Yu et al. 2023).")
    noise_offset: float = Field(
        0.0, ge=0, le=1, description="Random shift of each channel's noise; e.g. 0.05 gives darker blacks."
    )
    style_loss: StyleLossSection | None = None

    init_adapter: str | None = Field(
        None,
        min_length=1,
        description="A LoRA file (.safetensors of this program, diffusers or kohya) to go on from; its rank and "
        "modules must fit. null: start from zero.",
    )
    rank: int = Field(4, ge=1, le=512, description="Rank of the low-rank update.")
    lora_alpha: int | None = Field(
        None, ge=1, le=1_000_000, description="The update is scaled by alpha / rank; null: alpha = rank."
    )
    lora_layers: tuple[LoraLayer, ...] = Field(
        ATTENTION, min_length=1, description="The UNet layers that get LoRA; with convolutions it is a LoCon."
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Share of a LoRA layer's inputs that is set to 0.")
    use_dora: bool = Field(False, description="DoRA: learn magnitude and direction separately (Liu et al. 2024).")
    use_rslora: bool = Field(False, description="rsLoRA: scale by alpha / sqrt(rank) (Kalajdzievski 2023).")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Keep a running average of the weights (EMA), and use it as the adapter."
    )

    textual_inversion: TextualInversionSection | None = None
    clip_skip: int | None = Field(
        None, ge=1, le=11, description="Number of further last text encoder layers to skip, as at inference."
    )
    max_token_length: TokenLength = Field(
        75, description="Tokens of a text that are read: 75, 150 or 225, in chunks of 75; as at inference."
    )
    caption_dropout: float = Field(
        0.0, ge=0, le=1, description="Share of pictures that are shown with an empty caption."
    )
    augmentation: AugmentationSection | None = None
    adapters: Literal["one", "per-style"] = Field(
        "one", description="One adapter for all styles, or one adapter per style."
    )

    prior: PriorSection | None = None
    validation: ValidationSection | None = Field(None, description="Needs dataset.hold_out; null: no validation loss.")
    previews: PreviewSection | None = Field(None, description="Draw and measure the adapter during training; null: no.")

    @model_validator(mode="after")
    def _prodigy_learning_rates_are_equal(self) -> "TrainingSection":
        tokens = self.textual_inversion and self.textual_inversion.learning_rate
        rates = {"text_encoder_lr": self.text_encoder_lr, "textual_inversion.learning_rate": tokens}
        for name, rate in rates.items():
            if self.optimizer == "prodigy" and not self.prodigy_separate_d and rate not in (None, self.learning_rate):
                raise ValueError(
                    f"prodigy estimates one step size for all groups: {name} must equal learning_rate, "
                    "or set prodigy_separate_d"
                )
        return self

    @field_validator("lora_layers")
    @classmethod
    def _order_of_layers_means_nothing(cls, names: tuple[LoraLayer, ...]) -> tuple[LoraLayer, ...]:
        return tuple(sorted(set(names)))

    @model_validator(mode="after")
    def _dora_is_of_matrices(self) -> "TrainingSection":
        convolutions = [name for name in self.lora_layers if "conv" in name]
        if self.use_dora and convolutions:
            raise ValueError(f"use_dora is for matrices: leave {', '.join(convolutions)} out of lora_layers")
        return self

    @model_validator(mode="after")
    def _stages_add_up(self) -> "TrainingSection":
        steps = sum(stage.steps for stage in self.stages or ())
        if self.stages and steps != self.max_train_steps:
            raise ValueError(f"stages have {steps} steps in all, but max_train_steps is {self.max_train_steps}")
        if self.stages and self.stages[-1].resolution != self.resolution:
            raise ValueError(f"the last of stages has resolution {self.stages[-1].resolution}, not {self.resolution}")
        return self

    @model_validator(mode="after")
    def _stops_come_before_the_end(self) -> "TrainingSection":
        pivot = self.textual_inversion and self.textual_inversion.pivot_step
        steps = {"textual_inversion.pivot_step": pivot, "text_encoder_stop_step": self.text_encoder_stop_step}
        steps |= {f"unfreeze.{index}.step": entry.step for index, entry in enumerate(self.unfreeze)}
        for name, step in steps.items():
            if step is not None and step >= self.max_train_steps:
                raise ValueError(f"{name} is {step}: it must be less than max_train_steps ({self.max_train_steps})")
        if self.text_encoder_stop_step and self.text_encoder_lr is None:
            raise ValueError("text_encoder_stop_step needs text_encoder_lr: without it, the encoders are not trained")
        return self

    @model_validator(mode="after")
    def _options_are_compatible(self) -> "TrainingSection":
        if self.debiased_estimation and self.snr_gamma is not None:
            raise ValueError("debiased_estimation and snr_gamma cannot be combined: set snr_gamma to null")
        if self.bucket_reso_steps and self.bucket_reso_steps > min(s.resolution for s in self.resolutions):
            raise ValueError(f"bucket_reso_steps {self.bucket_reso_steps} is larger than the resolution")
        tokens_only = self.textual_inversion and not self.textual_inversion.train_lora
        if tokens_only and (self.text_encoder_lr is not None or self.adapters == "per-style"):
            raise ValueError("textual_inversion.train_lora is false, but text_encoder_lr or adapters need LoRA")
        if self.textual_inversion and self.adapters == "per-style":
            raise ValueError(
                "adapters per-style cannot share new tokens: set textual_inversion to null, or adapters to one"
            )
        if tokens_only and self.init_adapter:
            raise ValueError("init_adapter needs LoRA: set textual_inversion.train_lora to true")
        if tokens_only and self.prior and self.prior.kind == "base_prediction":
            raise ValueError("prior.kind base_prediction needs LoRA: set textual_inversion.train_lora to true")
        return self

    @property
    def resolutions(self) -> tuple[StageSection, ...]:
        """The stages; a single one when the recipe sets none."""
        return self.stages or (StageSection(resolution=self.resolution, steps=self.max_train_steps),)

    @property
    def effective_batch_size(self) -> int:
        """The number of pictures per optimizer step, in one of the processes."""
        return self.train_batch_size * self.gradient_accumulation_steps
