"""The training section of a recipe: what is learnt, how, and what keeps it from being learnt by heart.

Names are diffusers' where it has one, kohya's otherwise. Every option is off unless the recipe asks for it.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Precision = Literal["fp32", "bf16", "fp16"]
LoraLayer = Literal["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
MAX_INT = 2**53  # every whole number up to it is the same in JSON, in a database and in a float
ATTENTION: tuple[LoraLayer, ...] = ("to_k", "to_out.0", "to_q", "to_v")


class Section(BaseModel):
    """A part of a recipe: cannot be changed, and refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="after")
    def _whole_numbers_fit_everywhere(self) -> Self:
        for name, value in self:
            if isinstance(value, int) and abs(value) > MAX_INT:
                raise ValueError(f"{name} is larger than {MAX_INT:,}")
        return self


class PriorSection(Section):
    """Prior preservation: the adapter goes on drawing for class prompts what the base draws (Ruiz et al. 2022)."""

    kind: Literal["class_images", "base_prediction"] = Field(
        "class_images",
        description="Learn from pictures the base drew once, or from what it predicts with the adapter switched off.",
    )
    class_prompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, description="What the base must still be able to draw; pictures are shared out evenly."
    )
    num_class_images: int = Field(100, ge=1, le=100_000, description="How many are drawn, for class_images.")
    class_batch_size: int = Field(1, ge=1, le=256, description="Pictures of the prior beside each batch.")
    prior_loss_weight: float = Field(1.0, gt=0, le=100, description="Weight of the prior's loss.")


class ValidationSection(Section):
    """A validation loss on held-out pictures, at fixed timesteps and noises."""

    validation_steps: int = Field(100, ge=1, description="Optimizer steps between two measurements.")
    num_validation_images: int = Field(16, ge=1, le=10_000, description="How many held-out pictures.")


class CheckpointSection(Section):
    """Every N steps: the adapter as it is then, a sample sheet with the base's pictures as control, two scores."""

    checkpointing_steps: int = Field(100, ge=1, description="Optimizer steps between two sample sheets.")
    prompts: int = Field(4, ge=1, le=64, description="The first N prompts of the suite, one picture each.")
    score: bool = Field(True, description="Measure the pictures with the recipe's pair extractor.")


class StageSection(Section):
    """Some training steps at one resolution."""

    resolution: int = Field(ge=16, le=2048, multiple_of=8, description="Side of the square crops, in pixels.")
    steps: int = Field(ge=1, description="Optimizer steps at this resolution.")


class AugmentationSection(Section):
    """Several views of every picture, encoded once; each use of a picture draws one of them."""

    views: int = Field(4, ge=2, le=64, description="How many views of each picture.")
    random_flip: bool = Field(False, description="Mirror half of the views: the style's own left and right are lost.")
    random_crop: bool = Field(False, description="Crop anywhere along the longer side instead of at the centre.")
    color_jitter: float = Field(
        0.0, ge=0, le=0.5, description="Brightness, contrast and saturation vary by this share."
    )
    shuffle_caption: bool = Field(False, description="Shuffle the comma-separated parts of a caption.")

    @model_validator(mode="after")
    def _views_differ(self) -> "AugmentationSection":
        if not (self.random_flip or self.random_crop or self.color_jitter or self.shuffle_caption):
            raise ValueError("all views would be the same: switch on random_flip, random_crop, color_jitter or ...")
        return self


class TextualInversionSection(Section):
    """New tokens whose embeddings are learnt (Gal et al. 2022), alone or with LoRA (pivotal tuning)."""

    token_abstraction: str = Field(
        "TOK", pattern=r"^\w[\w -]*$", description="The word that stands for the new tokens in prompts and captions."
    )
    num_new_tokens_per_abstraction: int = Field(2, ge=1, le=64, description="How many tokens the word stands for.")
    initializer_concept: str | None = Field(None, min_length=1, description="Words to start from; null: random.")
    learning_rate: float = Field(1.0, gt=0, description="Of the new embeddings.")
    pivot_step: int | None = Field(None, ge=1, description="The tokens stand still from this step on; null: never.")
    train_lora: bool = Field(True, description="False: the tokens alone are learnt.")


class StyleLossSection(Section):
    """Beside the noise: Gram matrices of the denoised picture like those of the real one (Gatys et al. 2016)."""

    features: Literal["latent", "decoder"] = Field(
        "latent", description="Latents, or the VAE decoder's first features."
    )
    weight: float = Field(0.1, gt=0, le=1000, description="Weight beside the loss of the noise.")


class UnfreezeSection(Section):
    """Adapter weights that stay frozen until `step`."""

    modules: str = Field(min_length=1, description="How their names begin, e.g. unet.up_blocks.1 or text_encoder_2.")
    step: int = Field(ge=1, description="The optimizer step from which they learn.")


class TrainingSection(Section):
    """LoRA fine-tuning (Hu et al. 2021) of the attention layers."""

    instance_prompt: str = Field(min_length=1, description="Fixed prompt that every caption is appended to.")
    resolution: int = Field(ge=16, le=2048, multiple_of=8, description="Side of the square crops, in pixels.")
    stages: tuple[StageSection, ...] | None = Field(
        None, min_length=1, description="Several resolutions one after the other; null: all steps at `resolution`."
    )
    bucket_reso_steps: int | None = Field(
        None,
        ge=8,
        multiple_of=8,
        description="Aspect buckets with sides of multiples of it; null: square centre crops.",
    )
    train_batch_size: int = Field(1, ge=1, le=256, description="Pictures of one forward and backward pass.")
    gradient_accumulation_steps: int = Field(1, ge=1, le=256, description="Passes behind one optimizer step.")
    fit_memory: bool = Field(
        False, description="Split the effective batch, and recompute activations, as the device's memory demands."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, more time.")
    max_train_steps: int = Field(500, ge=1, le=10_000_000, description="Optimizer steps.")
    mixed_precision: Precision = Field("fp16", description="Number format of frozen weights and activations.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all random numbers of the training.")

    optimizer: Literal["prodigy", "adamw", "adamw8bit"] = Field("prodigy", description="Prodigy chooses its step size.")
    learning_rate: float = Field(1.0, gt=0, description="With Prodigy a factor on its own step size, usually 1.")
    text_encoder_lr: float | None = Field(
        None, gt=0, description="Trains LoRA on both text encoders too; null: they stay frozen."
    )
    text_encoder_stop_step: int | None = Field(None, ge=1, description="The encoders are frozen from this step on.")
    prodigy_separate_d: bool = Field(False, description="Prodigy estimates a step size for every group of weights.")
    adam_weight_decay: float = Field(1.0e-4, ge=0, description="Weight decay, for every optimizer.")
    adam_betas: tuple[float, float] = Field((0.9, 0.999), description="Betas, for every optimizer.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    lr_scheduler: Literal["constant", "cosine"] = Field("constant", description="Course of the learning rate.")
    lr_warmup_steps: int = Field(0, ge=0, description="Steps in which the rate rises from 0.")
    unfreeze: tuple[UnfreezeSection, ...] = Field(
        (), description="Gradual unfreezing; what is not named learns at once."
    )

    snr_gamma: float | None = Field(5.0, gt=0, description="Min-SNR weighting (Hang et al. 2023); null: none.")
    debiased_estimation: bool = Field(False, description="Weights 1/sqrt(SNR) instead (Yu et al. 2023).")
    noise_offset: float = Field(0.0, ge=0, le=1, description="A shift of each channel's noise (0.05: deeper blacks).")
    style_loss: StyleLossSection | None = None

    rank: int = Field(4, ge=1, le=512, description="Rank of the low-rank update.")
    lora_alpha: int | None = Field(None, ge=1, description="Scale is alpha / rank; null: alpha = rank.")
    lora_layers: tuple[LoraLayer, ...] = Field(ATTENTION, min_length=1, description="Which layers of the UNet.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Share of a LoRA layer's inputs that is set to 0.")
    use_dora: bool = Field(False, description="Learn magnitude and direction apart (Liu et al. 2024).")
    use_rslora: bool = Field(False, description="Scale is alpha / sqrt(rank) (Kalajdzievski 2023).")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="Keep a running average of the weights, and ship it.")

    textual_inversion: TextualInversionSection | None = None
    clip_skip: int | None = Field(None, ge=1, le=11, description="Text layers left out at the end, as at inference.")
    caption_dropout: float = Field(0.0, ge=0, le=1, description="Share of pictures that are shown without any text.")
    augmentation: AugmentationSection | None = None
    adapters: Literal["one", "per-style"] = Field("one", description="One adapter for all styles, or one for each.")

    prior: PriorSection | None = None
    validation: ValidationSection | None = Field(None, description="Needs dataset.hold_out; null: no validation loss.")
    checkpoints: CheckpointSection | None = Field(None, description="Look at the adapter while it learns; null: no.")

    @model_validator(mode="after")
    def _prodigy_has_one_rate(self) -> "TrainingSection":
        tokens = self.textual_inversion and self.textual_inversion.learning_rate
        rates = {"text_encoder_lr": self.text_encoder_lr, "textual_inversion.learning_rate": tokens}
        for name, rate in rates.items():
            if self.optimizer == "prodigy" and not self.prodigy_separate_d and rate not in (None, self.learning_rate):
                raise ValueError(
                    f"prodigy estimates one step size for all groups: {name} must equal learning_rate, "
                    "or set prodigy_separate_d"
                )
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
        steps |= {f"unfreeze.{index}.step": one.step for index, one in enumerate(self.unfreeze)}
        for name, step in steps.items():
            if step is not None and step >= self.max_train_steps:
                raise ValueError(f"{name} is {step}, which is not before the end at step {self.max_train_steps}")
        if self.text_encoder_stop_step and self.text_encoder_lr is None:
            raise ValueError("text_encoder_stop_step needs text_encoder_lr: the encoders are not trained")
        return self

    @model_validator(mode="after")
    def _choices_agree(self) -> "TrainingSection":
        if self.debiased_estimation and self.snr_gamma is not None:
            raise ValueError("debiased_estimation and snr_gamma both weigh the loss: set snr_gamma to null")
        if self.bucket_reso_steps and self.bucket_reso_steps > min(s.resolution for s in self.resolutions):
            raise ValueError(f"bucket_reso_steps {self.bucket_reso_steps} is more than the resolution")
        alone = self.textual_inversion and not self.textual_inversion.train_lora
        if alone and (self.text_encoder_lr is not None or self.adapters == "per-style"):
            raise ValueError("textual_inversion.train_lora is false, but text_encoder_lr or adapters ask for LoRA")
        if self.textual_inversion and self.adapters == "per-style":
            raise ValueError(
                "adapters per-style cannot share new tokens: set textual_inversion to null, or adapters to one"
            )
        if alone and self.prior and self.prior.kind == "base_prediction":
            raise ValueError("prior.kind base_prediction needs an adapter that can be switched off: train_lora")
        return self

    @property
    def resolutions(self) -> tuple[StageSection, ...]:
        """The stages, one when the recipe names none."""
        return self.stages or (StageSection(resolution=self.resolution, steps=self.max_train_steps),)

    @property
    def effective_batch_size(self) -> int:
        """Pictures behind one optimizer step."""
        return self.train_batch_size * self.gradient_accumulation_steps
