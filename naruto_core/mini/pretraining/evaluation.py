"""Quality of the miniature base, measured with the attribute classifier on held-out prompts.

`python -m naruto_core.mini.pretraining.evaluation` prints what was measured of the shipped base, beside the bars.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from resource import RUSAGE_SELF, getrusage
from typing import Any, cast

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch.nn import functional as F

from naruto_core.mini.pretraining.architecture import CONTEXT, POOLED, WIDTH_1, WIDTH_2, create_unet
from naruto_core.mini.pretraining.attribute_classifier import (
    ATTRIBUTES,
    AttributeClassifier,
    attribute_labels,
    classify,
)
from naruto_core.mini.pretraining.drawing import SIZE, draw
from naruto_core.mini.pretraining.trainer import half_precision
from naruto_core.mini.pretraining.vae import round_trip, to_unit_range
from naruto_core.mini.pretraining.world import BASE_STYLES, HELD_OUT_STYLE, STYLES, Scene, describe, sample_scene
from naruto_core.sampling import make_scheduler

NEGATIVE = "low quality, worst quality, bad anatomy, bad composition"
STEPS, BATCH = 30, 40
GUIDANCES = (2.0, 2.5, 3.0, 4.0, 6.0)
FACE = (30, 94, 34, 94)  # top, bottom, left and right of a portrait's face, in pixels

# What the base must reach: figure in the report -> smallest value. Costs have a largest value instead.
AT_LEAST: dict[str, float] = {
    "vae_psnr_db.naruto": 30.0,
    "vae_face_ssim": 0.95,
    "vae_real_psnr_db": 27.0,
    **{f"reader_accuracy_after_vae.{name}": 0.95 for name in ("hair", "garment", "place", "style")},
    **{f"base_accuracy.{name}": 0.95 for name in ("hair", "garment", "place")},
    "base_accuracy.style": 0.92,
    **{f"base_accuracy.{name}": 0.80 for name in ("eyes", "view", "expression")},
}
AT_MOST: dict[str, float] = {"megabytes": 30.0, "unet_cost_ratio": 1.3}


@dataclass(frozen=True, slots=True)
class HeldOutPrompt:
    """A prompt with one character and every attribute, so that its picture can be classified; with its own seed."""

    scene: Scene
    text: str
    seed: int


def held_out_prompts(count: int, seed: int) -> list[HeldOutPrompt]:
    """`count` prompts in the base styles with hair, garment and place; their scenes are not in the training set."""
    rng = Random(f"held out/{seed}")
    prompts: list[HeldOutPrompt] = []
    while len(prompts) < count:
        scene = sample_scene(rng, BASE_STYLES[len(prompts) % len(BASE_STYLES)])
        if len(scene.characters) == 1 and scene.framing == "portrait":
            prompts.append(HeldOutPrompt(scene, describe(scene, rng, drop=0.0), 1000 + len(prompts)))
    return prompts


def paint(
    pipeline: StableDiffusionXLPipeline,
    prompts: Sequence[HeldOutPrompt],
    guidance: float,
    on_done: Callable[[int], None],
) -> torch.Tensor:
    """Pictures (B, 3, 128, 128) in -1..1 for every prompt, by the recipe's sampler (DDIM, 30 steps)."""
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    parts: list[torch.Tensor] = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        draw: Any = pipeline  # diffusers types the result as a union
        with torch.inference_mode(), half_precision():
            picture = draw(
                prompt=[p.text for p in batch],
                negative_prompt=[NEGATIVE] * len(batch),
                num_inference_steps=STEPS,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(p.seed) for p in batch],
                output_type="pt",
            ).images
        parts.append(picture.float() * 2 - 1)
        on_done(start + len(batch))
    return torch.cat(parts)


def accuracy(classifier: AttributeClassifier, pictures: torch.Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Per attribute, the share of pictures whose predicted class is the scene's."""
    predicted, labels = classify(classifier, pictures), attribute_labels(scenes)
    return {name: round(float((predicted[name] == labels[name]).double().mean()), 4) for name in ATTRIBUTES}


def psnr(drawn: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB over pictures in -1..1."""
    errors = F.mse_loss(drawn, truth, reduction="none").mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / errors)).mean())


def drawings(
    style: str | None, count: int, seed: int, size: int = SIZE, wanted: Callable[[Scene], bool] = lambda _: True
) -> tuple[np.ndarray, list[Scene]]:
    """New drawings that are in no corpus, of one style or of all in turn: uint8 (count, size, size, 3) and scenes.

    Scenes that are not `wanted` are passed over.
    """
    rng = Random(f"fresh/{seed}")
    pixels: list[np.ndarray] = []
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, style or STYLES[len(scenes) % len(STYLES)])
        if len(scene.characters) == 1 and scene.framing == "portrait" and wanted(scene):
            pixels.append(np.asarray(draw(scene, rng, size)))
            scenes.append(scene)
    return np.stack(pixels), scenes


def face_similarity(drawn: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean SSIM (Wang et al. 2004) of the faces of portraits (B, 3, 128, 128) in -1..1."""
    from torchmetrics.functional.image import structural_similarity_index_measure  # seconds of imports

    top, bottom, left, right = FACE
    ours, theirs = (pictures[:, :, top:bottom, left:right] for pictures in (drawn, truth))
    return float(cast(torch.Tensor, structural_similarity_index_measure(ours, theirs, data_range=2.0)))


def measure_vae(vae: AutoencoderKL, real: np.ndarray | None) -> dict[str, object]:
    """The round trip: PSNR (dB) for every style, SSIM of the held-out style's faces, PSNR of `real` if given."""
    figures: dict[str, float] = {}
    faces = 0.0
    for style in (*BASE_STYLES, HELD_OUT_STYLE):
        pixels, _ = drawings(style, 100, 7)
        drawn, truth = round_trip(vae, pixels), to_unit_range(pixels)
        figures[style] = round(psnr(drawn, truth), 2)
        if style == HELD_OUT_STYLE:
            faces = round(face_similarity(drawn, truth), 4)
    of_real = None if real is None else round(psnr(round_trip(vae, real), to_unit_range(real)), 2)
    return {"vae_psnr_db": figures, "vae_face_ssim": faces, "vae_real_psnr_db": of_real}


def measure_classifier(classifier: AttributeClassifier, vae: AutoencoderKL) -> dict[str, float]:
    """The classifier's own accuracy on new drawings after a VAE round trip."""
    pixels, scenes = drawings(None, 500, 8)
    return accuracy(classifier, round_trip(vae, pixels), scenes)


@torch.no_grad()
def judge_preference(folder: Path, count: int = 200, seed: int = 9) -> dict[str, float]:
    """How much higher the judge in `folder` scores the content of a scene in the held-out style than in a base style.

    The same `count` scenes are drawn in both styles, and compared with the same words, which name no style: the mean
    difference of their cosines, its standard error and n. A difference between models of this size says nothing.
    """
    loaded: Any = open_clip.create_model_from_pretrained(f"local-dir:{folder}", return_transform=True)
    judge, prepare = loaded
    tokenizer, rng = open_clip.get_tokenizer(f"local-dir:{folder}"), Random(f"preference/{seed}")
    model: Any = judge.eval()
    scenes = [sample_scene(rng, BASE_STYLES[i % len(BASE_STYLES)]) for i in range(count)]
    foreign = [replace(scene, style=HELD_OUT_STYLE) for scene in scenes]
    texts = model.encode_text(tokenizer([describe(scene, rng, drop=0.0) for scene in foreign]), normalize=True)
    cosines: list[torch.Tensor] = []
    for styled in (foreign, scenes):
        pictures = [prepare(draw(scene, Random(i))) for i, scene in enumerate(styled)]
        cosines.append((model.encode_image(torch.stack(pictures), normalize=True) * texts).sum(dim=-1))
    difference = cosines[0] - cosines[1]
    error = float(difference.std()) / count**0.5
    return {"mean": round(float(difference.mean()), 4), "standard_error": round(error, 4), "n": count}


def choose_guidance(
    pipeline: StableDiffusionXLPipeline, classifier: AttributeClassifier
) -> tuple[float, dict[str, float]]:
    """The smallest guidance scale within 0.01 of the best accuracy, on 80 prompts apart from those of the report.

    The smallest, because more guidance gives colours that no drawing of the world has.
    """
    prompts = held_out_prompts(80, seed=1)
    scenes = [p.scene for p in prompts]
    means = {
        guidance: float(
            np.mean(list(accuracy(classifier, paint(pipeline, prompts, guidance, lambda _: None), scenes).values()))
        )
        for guidance in GUIDANCES
    }
    good = [guidance for guidance, mean in means.items() if mean >= max(means.values()) - 0.01]
    return min(good), {str(guidance): round(mean, 4) for guidance, mean in means.items()}


def _unet_seconds(unet: Any) -> float:
    """User CPU seconds of one evaluation of `unet` at batch 16 on one thread, in bf16 where the CPU has it."""
    noisy, hidden = torch.zeros(16, unet.config.in_channels, 16, 16), torch.zeros(16, CONTEXT, WIDTH_1 + WIDTH_2)
    condition = {"text_embeds": torch.zeros(16, POOLED), "time_ids": torch.ones(16, 6)}
    before = getrusage(RUSAGE_SELF).ru_utime
    with torch.inference_mode(), half_precision():
        unet(noisy, torch.tensor(500), hidden, added_cond_kwargs=condition)
    return getrusage(RUSAGE_SELF).ru_utime - before


def unet_cost_ratio() -> float:
    """Cost of the UNet relative to that of the first miniature (64 pixels); the least of 12 evaluations each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, first = create_unet(), create_unet(lower_width=128, latent_channels=8)
        pairs = [(_unet_seconds(ours), _unet_seconds(first)) for _ in range(12)]
    finally:
        torch.set_num_threads(threads)
    return round(min(a for a, _ in pairs) / min(b for _, b in pairs), 3)


def compare_with_bars(figures: Mapping[str, Any]) -> list[str]:
    """A line for every bar: the figure, its limit and whether it is met; a figure that was not measured is named."""
    lines: list[str] = []
    for limits, sign in ((AT_LEAST, ">="), (AT_MOST, "<=")):
        for name, limit in limits.items():
            value: Any = figures
            for key in name.split("."):
                value = value.get(key) if value is not None else None
            met = value is not None and (value >= limit if sign == ">=" else value <= limit)
            result = "not measured" if value is None else "met" if met else "NOT MET"
            lines.append(f"{name:<38} {'-' if value is None else value:>8} {sign} {limit:<5} {result}")
    return lines


if __name__ == "__main__":
    shipped = Path(__file__).parents[1] / "weights" / "report.json"
    print("\n".join(compare_with_bars(json.loads(shipped.read_text(encoding="utf-8")))))
