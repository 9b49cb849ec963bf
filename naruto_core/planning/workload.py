"""What a run has to do: the phases, the number of units in each, and the work of one unit."""

from dataclasses import dataclass

from naruto_core.domain import PromptSuite
from naruto_core.generation import padded_batch_size
from naruto_core.planning.flops import Adaptation, Architecture, Work
from naruto_core.planning.metric_networks import network_names
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import GenerationSection
from naruto_core.recipe_training import Precision, TrainingSection

VALIDATION_TIMESTEPS = 4  # at which the validation loss of a picture is measured

# FLOPs of one picture of 299, 224 and 128 pixels, by the whole name or its first part: Szegedy et al. 2016 (5.7 G
# multiplications), OpenCLIP's model profile, and the miniature's networks counted by torch (tests/naruto_core/planning)
_EXTRACTOR_FLOPS = {
    "inception": 11.4e9,
    "ViT-L-14": 162e9,
    "package:naruto_core.mini/weights/judge": 0.24e9,
    "package:naruto_core.mini/weights/reader": 0.41e9,
}
_OTHER_EXTRACTOR = 10e9


@dataclass(frozen=True, slots=True)
class Workload:
    """How many units each phase has still to do; what exists already is not counted."""

    class_pictures: int
    encoded: int
    steps: int
    preview_base: int
    previews: int
    fused: int
    base_samples: int
    adapter_samples: int
    checked: int
    scored: int


@dataclass(frozen=True, slots=True)
class PhaseWork:
    """A phase: `units` of `work` each. `loads` of the base model come before it, and `written` bytes after it.

    `memory_phase` is its name in the memory plan.
    """

    phase: str
    units: int
    unit: str
    work: Work
    precision: Precision
    memory_phase: str
    loads: int = 0
    written: int = 0


def whole_workload(recipe: Recipe, suite: PromptSuite, n_train: int, n_reference: int) -> Workload:
    """The workload of a run that finds nothing done, with so many pictures to train on and to compare with."""
    section, variants = recipe.training, recipe.generation.variants
    prior, previews = section.prior, section.previews
    drawn = prior.num_class_images if prior and prior.kind == "class_images" else 0
    heads, samples = len(recipe.adapter_names), len(suite.prompts) * len(suite.seeds)
    held_out = section.validation.num_validation_images if section.validation else 0
    per_resolution = n_train * (section.augmentation.views if section.augmentation else 1) + drawn
    shown = min(previews.prompts, len(suite.prompts)) if previews else 0
    made = -(-section.max_train_steps // previews.preview_steps) * heads if previews else 0
    return Workload(
        class_pictures=drawn,
        encoded=per_resolution * len({stage.resolution for stage in section.resolutions}) + held_out,
        steps=section.max_train_steps * heads,
        preview_base=shown,
        previews=made,
        fused=1,
        base_samples=samples if "base" in variants else 0,
        adapter_samples=samples * len([variant for variant in variants if variant != "base"]),
        checked=recipe.fusion.check_pictures if "adapted" in variants and "fused" not in variants else 0,
        scored=samples * len(variants) + n_train + n_reference,
    )


def phases(recipe: Recipe, section: TrainingSection, workload: Workload, networks: Architecture) -> list[PhaseWork]:
    """The phases that have something to do, in their order.

    `section` is the recipe's training, as it is split to fit into the memory.
    """
    drawing, trained, drawn = recipe.generation, section.mixed_precision, recipe.generation.mixed_precision
    of_class = drawing.at_resolution(section.prior.resolution if section.prior else None)
    of_preview = drawing.at_resolution(section.previews.resolution if section.previews else None)
    of_preview = of_preview.model_copy(update={"mixed_precision": trained})
    shown = section.previews.prompts if section.previews else 0
    class_picture, preview, sample = (picture_work(networks, of) for of in (of_class, of_preview, drawing))
    samples, drawn_by_adapter = workload.base_samples + workload.adapter_samples, workload.adapter_samples > 0
    loads = int(workload.base_samples > 0) + drawn_by_adapter + (drawn_by_adapter and "fused" in drawing.variants)
    merged = sum(networks.parameters.values())
    weights = merged * (4 if trained == "fp32" else 2)
    found = [
        PhaseWork("class pictures", workload.class_pictures, "picture", class_picture, drawn, "sample", 1),
        PhaseWork("preview base", workload.preview_base, "picture", preview, trained, "sample", 1),
        PhaseWork("encode", workload.encoded, "picture", encoding_work(networks, section), trained, "encode"),
        PhaseWork("train", workload.steps, "step", step_work(networks, section), trained, "train", 1),
        PhaseWork("previews", workload.previews, "preview", preview.times(shown), trained, "sample"),
        PhaseWork("fuse", workload.fused, "model", Work(2.0 * merged), trained, "save", 1, weights),
        PhaseWork("samples", samples, "picture", sample, drawn, "sample", loads),
        PhaseWork("fused check", workload.checked, "picture", sample, drawn, "sample", 1),
        PhaseWork("score", workload.scored, "picture", scoring_work(recipe), "fp32", ""),
    ]
    return [phase for phase in found if phase.units]


def picture_work(networks: Architecture, section: GenerationSection) -> Work:
    """One picture of a full batch: text encoders, denoising steps with and without the prompt, decoding."""
    texts = 2 if section.guidance_scale > 1 else 1
    size = padded_batch_size(section.batch_size)
    text, decode = networks.texts().times(texts), networks.decode(section.resolution)
    steps = networks.unet(section.resolution).batch(texts * size).times(section.num_inference_steps)
    return (text.batch(size) + steps + decode.times(section.batch_size)).times(1 / section.batch_size)


def encoding_work(networks: Architecture, section: TrainingSection) -> Work:
    """One picture and its text: the mean over the resolutions."""
    sides = {stage.resolution for stage in section.resolutions}
    total = Work()
    for side in sides:
        total += networks.encode(side)
    frozen = section.text_encoder_lr is None and section.textual_inversion is None
    return total.times(1 / len(sides)) + (networks.texts() if frozen else Work())


def step_work(networks: Architecture, section: TrainingSection) -> Work:
    """One optimizer step: the mean over the stages, with the prior and the validation loss."""
    adaptation, prior, validation = Adaptation.of(section), section.prior, section.validation
    total = Work()
    for stage in section.resolutions:
        forward = networks.unet(stage.resolution)
        step = networks.training_pass(stage.resolution, adaptation)
        step = step.batch(section.train_batch_size + (prior.class_batch_size if prior else 0))
        if prior and prior.kind == "base_prediction":
            step += forward.batch(prior.class_batch_size)
        step = step.times(section.gradient_accumulation_steps)
        if validation:
            measured = networks.unet(section.resolution).batch(VALIDATION_TIMESTEPS)
            measured = measured.times(validation.num_validation_images)
            step += measured.times(1 / validation.validation_steps)
        total += step.times(stage.steps / section.max_train_steps)
    return total


def scoring_work(recipe: Recipe) -> Work:
    """One picture, seen by every network that measures."""
    names = network_names(recipe.scoring)
    known = _EXTRACTOR_FLOPS
    return Work(sum(known.get(name) or known.get(name.split("/")[0], _OTHER_EXTRACTOR) for name in names))
