"""What a Hugging Face Inference Endpoint runs: pictures by the fused model that lies in this file's folder.

Stands alone: it needs the packages of `requirements.txt`, the files `sampling.py` and `weight_check.py` beside it, and
nothing else of the project that wrote it. Whatever it raises, the endpoint answers with status 400 and the message.
"""

import json
import logging
import math
import re
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from PIL.Image import Image

sys.path.insert(0, str(Path(__file__).parent))  # for programs that load this file by its path

from sampling import decode_picture, load_vae, make_scheduler
from weight_check import check_pipeline

# diffusers logs the end of a prompt that is too long for the text encoders: prompts are private
logging.getLogger("diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl").setLevel(logging.ERROR)

_LONGEST_PROMPT, _MOST_STEPS, _MOST_GUIDANCE = 2000, 150, 30.0
_PARAMETERS = ("seed", "negative_prompt", "num_inference_steps", "guidance_scale", "width", "height")


class EndpointHandler:
    """Loads once; each call draws one picture."""

    def __init__(self, path: str = "") -> None:
        """`path` is the folder of the model, as the endpoint's toolkit gives it."""
        folder = Path(path)
        self.settings: dict[str, Any] = json.loads((folder / "generation.json").read_text(encoding="utf-8"))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # fp16, not what torch supports: a T4 says yes to bf16 and emulates it
        dtype = torch.float16 if device == "cuda" else torch.float32
        self.pipeline = StableDiffusionXLPipeline.from_pretrained(
            str(folder),
            vae=load_vae(folder, dtype),
            torch_dtype=dtype,
            use_safetensors=True,
            add_watermarker=False,
        ).to(device)
        check_pipeline(folder, self.pipeline)
        self.pipeline.scheduler = make_scheduler(self.settings["scheduler"], self.pipeline.scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, data: dict[str, Any]) -> Image:
        """One picture for `data`: {"inputs": a prompt, "parameters": {"seed": 7, "num_inference_steps": 30, ...}}.

        Parameters that are left out are the run's own; without a seed each call draws another picture. The seed is in
        the picture's `info`. Raises ValueError, naming the parameter, for what cannot be drawn, and NotFinite for a
        picture that would be black.
        """
        prompt, asked = data.get("inputs"), data.get("parameters") or {}
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError("inputs: a prompt is wanted, a text that is not empty.")
        if not isinstance(asked, dict):
            raise ValueError("parameters: an object is wanted, such as {'seed': 7}.")
        if unknown := sorted(set(asked) - set(_PARAMETERS)):
            raise ValueError(f"parameters: {unknown[0]} is not known; there are {', '.join(_PARAMETERS)}.")
        seed = _whole(asked, "seed", secrets.randbelow(2**31), 0, 2**63 - 1)
        most = 2 * self.settings["resolution"]
        # made on the CPU: the same seed is the same picture on every device
        latents = self.pipeline(
            prompt=self._with_tokens(_text("inputs", prompt)),
            negative_prompt=_text("negative_prompt", asked.get("negative_prompt", self.settings["negative_prompt"])),
            num_inference_steps=_whole(
                asked, "num_inference_steps", self.settings["num_inference_steps"], 1, _MOST_STEPS
            ),
            guidance_scale=_guidance(asked.get("guidance_scale", self.settings["guidance_scale"])),
            width=_side(asked, "width", self.settings["resolution"], most),
            height=_side(asked, "height", self.settings["resolution"], most),
            clip_skip=self.settings["clip_skip"],
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        ).images
        picture = decode_picture(self.pipeline, latents)
        picture.info["seed"] = str(seed)
        return picture

    def _with_tokens(self, text: str) -> str:
        """A prompt with the words that stand for trained tokens replaced by those."""
        for word, tokens in self.settings["new_tokens"].items():
            text = re.sub(rf"\b{re.escape(word)}\b", tokens, text, flags=re.IGNORECASE)
        return text


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_PROMPT:
        raise ValueError(f"{name}: a text of at most {_LONGEST_PROMPT} characters is wanted.")
    return value


def _whole(asked: dict[str, Any], name: str, usual: int, least: int, most: int) -> int:
    value = asked.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}: a whole number from {least} to {most} is wanted.")
    return value


def _side(asked: dict[str, Any], name: str, usual: int, most: int) -> int:
    value = _whole(asked, name, usual, 16, most)
    if value % 8:
        raise ValueError(f"{name}: {value} is not a multiple of 8, as the VAE needs it.")
    return value


def _guidance(value: object) -> float:
    number = math.nan
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            number = float(value)  # type: ignore[arg-type]
    if not 0 <= number <= _MOST_GUIDANCE:  # nan is not either
        raise ValueError(f"guidance_scale: a number from 0 to {_MOST_GUIDANCE:g} is wanted.")
    return number
