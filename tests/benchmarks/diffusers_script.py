"""diffusers' `train_dreambooth_lora_sdxl_advanced.py` as an opponent: run as it is, timed, its adapter measured.

The script is the user's own copy; nothing of it is here. It is timed by its own progress bar: the bar
moves right after each optimizer step, so imports, loading and decoding before the first one are not counted.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import torch

from naruto_core import sdxl
from naruto_core.recipe_sections import ModelSection
from naruto_core.recipe_training import TrainingSection
from naruto_core.training.loss import noise_scheduler, validation_loss
from tests.benchmarks.pictures import Pictures

BAR = re.compile(rb"Steps:[^\r\n]*?\| (\d+)/\d+ \[")
LINE = re.compile(r"[\r\n]+")


class ScriptUnfitError(Exception):
    """The script cannot be run, or did not come to its end; the message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class ScriptRun:
    """What one run of the script left: its pace, and `adapter`, the pytorch_lora_weights.safetensors it wrote."""

    seconds_per_step: float
    adapter: Path


def check_script(script: Path) -> None:
    """Raise ScriptUnfitError before any time is spent, when the script or what it reads captions with is missing."""
    if not script.is_file():
        raise ScriptUnfitError(f"SCRIPT={script}: there is no such file.")
    if find_spec("datasets") is None:
        raise ScriptUnfitError(
            "the script reads captions with `datasets`, which is not installed: run `uv pip install datasets`."
        )


def run_script(
    script: Path, model: ModelSection, section: TrainingSection, pictures: Pictures, class_pictures: Pictures, to: Path
) -> ScriptRun:
    """Train by `section` on a CPU, in a process of its own, with everything it reads and writes below `to`."""
    prompts = set(class_pictures.texts)
    assert len(prompts) == 1, "the script knows one class prompt"
    command = [
        *(sys.executable, str(script.resolve())),
        *("--pretrained_model_name_or_path", sdxl.locate(model.base, model.revision)[0]),
        *("--dataset_name", str(pictures.write(to / "pictures", captions=True))),
        *("--image_column", "image", "--caption_column", "text", "--cache_dir", str(to / "datasets")),
        *("--class_data_dir", str(class_pictures.write(to / "class", captions=False))),
        *("--class_prompt", *prompts, "--num_class_images", str(len(class_pictures.texts))),
        *("--output_dir", str(to / "adapter")),
        *_settings(section),
    ]
    alone = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}  # no network and no GPU, as on our side
    with subprocess.Popen(
        command, cwd=to, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | alone
    ) as process:
        assert process.stdout is not None
        said: list[bytes] = []
        ends = dict(_first_seen(process.stdout, said))
    adapter = to / "adapter" / "pytorch_lora_weights.safetensors"
    if process.returncode or not adapter.exists():
        raise ScriptUnfitError(f"the script stopped with status {process.returncode}; {_last_words(said)}")
    first, last = min(ends, default=0), max(ends, default=0)
    if last != section.max_train_steps or first == last:
        raise ScriptUnfitError(f"the script's progress bar ended at step {last} of {section.max_train_steps}.")
    return ScriptRun((ends[last] - ends[first]) / (last - first), adapter)


def _settings(section: TrainingSection) -> Iterator[str]:
    """The options that say to the script what `section` says to us."""
    prior = section.prior
    assert prior is not None
    assert prior.class_batch_size == section.train_batch_size, "the script shows as many class pictures as new ones"
    values = {
        "instance_prompt": section.instance_prompt,
        "resolution": section.resolution,
        "train_batch_size": section.train_batch_size,
        "gradient_accumulation_steps": section.gradient_accumulation_steps,
        "max_train_steps": section.max_train_steps,
        "checkpointing_steps": 2 * section.max_train_steps,  # none: ours saves only its last one too
        "optimizer": section.optimizer,
        "learning_rate": section.learning_rate,
        "text_encoder_lr": section.text_encoder_lr,
        "adam_weight_decay": section.adam_weight_decay,
        "adam_beta1": section.adam_betas[0],
        "adam_beta2": section.adam_betas[1],
        "max_grad_norm": section.max_grad_norm,
        "lr_scheduler": section.lr_scheduler,
        "lr_warmup_steps": section.lr_warmup_steps,
        "snr_gamma": section.snr_gamma,
        "rank": section.rank,
        "prior_loss_weight": prior.prior_loss_weight,
        "mixed_precision": section.mixed_precision,
        "seed": section.seed,
    }
    for name, value in values.items():
        yield from (f"--{name}", str(value))
    yield from ("--with_prior_preservation", "--train_text_encoder")
    if section.gradient_checkpointing:
        yield "--gradient_checkpointing"


def _first_seen(stream: IO[bytes], said: list[bytes]) -> Iterator[tuple[int, float]]:
    """Each step of the progress bar with the second it was first shown; everything read is added to `said`."""
    shown, rest = 0, b""
    while chunk := os.read(stream.fileno(), 1 << 16):
        now = time.perf_counter()
        said.append(chunk)
        rest += chunk
        found = [int(step) for step in BAR.findall(rest)]
        rest = rest[max(rest.rfind(b"\r"), rest.rfind(b"\n"), 0) :]  # a piece of a line waits for the rest of it
        if found and max(found) > shown:
            shown = max(found)
            yield shown, now


def _last_words(said: list[bytes]) -> str:
    lines = [line.strip() for line in LINE.split(b"".join(said).decode(errors="replace")) if line.strip()]
    return f"its last words: {lines[-1]}" if lines else "it said nothing."


def adapter_validation_loss(model: ModelSection, adapter: Path | None, held_out: Pictures, folder: Path) -> float:
    """The validation loss of the base with `adapter`, read by vanilla `load_lora_weights`; None: the base alone.

    In fp32, on texts encoded by the adapter's own encoders, so that what they learnt counts too.
    """
    cpu = torch.device("cpu")
    pipeline = sdxl.load_pipeline(model, "fp32", cpu)
    if adapter:
        pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name)
    return float(validation_loss(pipeline.unet, held_out.encoded(pipeline, folder), noise_scheduler(pipeline)))
