"""Twelve drawn pictures, their captions, and how tests train on them."""

from collections.abc import Callable
from pathlib import Path

from naruto_core import sdxl
from naruto_core.domain import StepRecord
from naruto_core.mini.pretraining.evaluation import drawings
from naruto_core.recipe_sections import ModelSection
from naruto_core.recipe_training import Precision, TrainingSection
from naruto_core.training.batches import StyleData, TrainingData
from naruto_core.training.latent_cache import CaptionedPicture, EncodingOptions, Examples, encode_examples
from naruto_core.training.loop import TrainingCallbacks, TrainingJob, train_adapter
from naruto_core.training.weights import Weights
from tests.naruto_core.conftest import CPU
from tests.tiny_sdxl import write_tiny_sdxl

PROMPT = "a naruto anime character"
PICTURES, SCENES = drawings("naruto", 12, seed=3, size=64)  # half the size of the recipe: tests are quicker
NAMES = [f"picture-{i}" for i in range(12)]
ADAPTER = "pytorch_lora_weights.safetensors"
PRIOR = {"class_prompts": ["a person"], "num_class_images": 12, "class_batch_size": 3, "prior_loss_weight": 0.5}
BASE_PRIOR = {"kind": "base_prediction", "class_prompts": ["a person", "a dog"], "class_batch_size": 2}


def section_of(**changes: object) -> TrainingSection:
    """A small training in fp32, with `changes`."""
    values = {
        "instance_prompt": PROMPT,
        "resolution": 64,
        "train_batch_size": 2,
        "max_train_steps": 6,
        "mixed_precision": "fp32",
        "seed": 5,
    }
    return TrainingSection.model_validate(values | changes)


def captioned(name: str, view: int = 0) -> CaptionedPicture:
    index = int(name.split("-")[1])
    return CaptionedPicture(name, f"with {SCENES[index].characters[0].hair} hair", PICTURES[index], (64, 64), (0, 0))


def captioned_tiny(name: str, view: int = 0) -> CaptionedPicture:
    """The same at a quarter of the width, for the tiny base."""
    picture = captioned(name, view)
    return CaptionedPicture(name, picture.caption, picture.pixels[::4, ::4], (16, 16), (0, 0))


def tiny_pipeline(folder: Path, precision: Precision = "fp32") -> object:
    """The tiny base in `folder`, written there by the first call: a step takes a fifth of the miniature's."""
    if not folder.exists():
        write_tiny_sdxl(folder)
    return sdxl.load_pipeline(ModelSection(base=str(folder)), precision, CPU)


def ignore(_: object) -> None: ...


def encode(
    pipeline: object,
    folder: Path,
    prompt: str = PROMPT,
    picture: Callable[[str, int], CaptionedPicture] = captioned,
    **how: object,
) -> Examples:
    return encode_examples(pipeline, [NAMES], picture, EncodingOptions(prompt, **how), folder, ignore)


def data_of(examples: Examples, section: TrainingSection, class_pictures: Examples | None = None) -> TrainingData:
    """One stage with one style; the same pictures for the prior and for validation unless there are others."""
    return TrainingData(section.max_train_steps, (StyleData(examples),), class_pictures or examples, examples)


def train(
    pipeline: object,
    examples: Examples,
    section: TrainingSection,
    checkpoint: Path,
    on_steps: Callable[[list[StepRecord]], None] = ignore,
    **options: object,
) -> tuple[list[StepRecord], Weights]:
    """All step records (also passed to `on_steps`), and the weights; saves at every step."""
    steps: list[StepRecord] = []

    def record(new: list[StepRecord]) -> None:
        steps.extend(new)
        on_steps(steps)

    tokens = options.pop("tokens", {})
    stages = options.pop("stages", None) or [data_of(examples, section)]
    callbacks = TrainingCallbacks(ignore, record, options.pop("on_preview", None))
    job = TrainingJob(section, tokens, checkpoint, 0.0, "recipe/data", callbacks)
    return steps, train_adapter(pipeline, stages, job)


def numbers(steps: list[StepRecord]) -> list[tuple[object, ...]]:
    """What must be the same in a repetition: all but how fast it went."""
    timed = {"pictures_per_second", "memory_gib"}
    return [(s.step, s.loss, s.learning_rate, {k: v for k, v in s.gauges.items() if k not in timed}) for s in steps]
