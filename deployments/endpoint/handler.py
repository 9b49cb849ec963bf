"""The handler of a Hugging Face Inference Endpoint: draws with the fused model in this file's folder.

It needs the packages of `requirements.txt` and the files `sampling.py`, `text_encoding.py` and `weight_check.py` beside
it, and no other file of the project that wrote it. The endpoint answers any exception with status 400 and its message.
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
from text_encoding import encode_prompts
from weight_check import check_pipeline

# diffusers would log the end of a prompt that is too long for the text encoders, but prompts are private
logging.getLogger("diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl").setLevel(logging.ERROR)

_MAX_PROMPT, _MAX_STEPS, _MAX_GUIDANCE = 2000, 150, 30.0  # characters, steps, guidance scale
_PARAMETERS = ("seed", "negative_prompt", "num_inference_steps", "guidance_scale", "width", "height")


class EndpointHandler:
    """Loads the model once; each call draws one picture."""

    def __init__(self, path: str = "") -> None:
        """`path` is the folder of the model; the endpoint's toolkit passes it."""
        folder = Path(path)
        self.settings: dict[str, Any] = json.loads((folder / "generation.json").read_text(encoding="utf-8"))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # fp16 even if torch reports bf16 as supported: a T4 emulates bf16
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
        """Draw one picture for {"inputs": a prompt, "parameters": {"seed": 7, "num_inference_steps": 30, ...}}.

        Defaults of the parameters are the run's own settings; the default seed is random. The seed is in the picture's
        `info`. Raises ValueError, naming the parameter, for a value that is not valid, and NotFinite for a picture that
        would be black.
        """
        prompt, parameters = data.get("inputs"), data.get("parameters") or {}
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError("inputs: must be a prompt, a text that is not empty.")
        if not isinstance(parameters, dict):
            raise ValueError("parameters: must be an object, such as {'seed': 7}.")
        if unknown := sorted(set(parameters) - set(_PARAMETERS)):
            raise ValueError(f"parameters: {unknown[0]} is unknown; known are {', '.join(_PARAMETERS)}.")
        seed = _integer(parameters, "seed", secrets.randbelow(2**31), 0, 2**63 - 1)
        resolution = self.settings["resolution"]
        text = self._with_tokens(_text("inputs", prompt))
        negative = _text("negative_prompt", parameters.get("negative_prompt", self.settings["negative_prompt"]))
        # noise is drawn on the CPU, so that a seed gives the same picture on every device
        latents = self.pipeline(
            **self._encode(text, negative),
            num_inference_steps=_integer(
                parameters, "num_inference_steps", self.settings["num_inference_steps"], 1, _MAX_STEPS
            ),
            guidance_scale=_guidance(parameters.get("guidance_scale", self.settings["guidance_scale"])),
            width=_side(parameters, "width", resolution),
            height=_side(parameters, "height", resolution),
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        ).images
        picture = decode_picture(self.pipeline, latents)
        picture.info["seed"] = str(seed)
        return picture

    def _encode(self, text: str, negative: str) -> dict[str, torch.Tensor]:
        """The prompts as arguments of the pipeline."""
        clip_skip, max_token_length = self.settings["clip_skip"], self.settings["max_token_length"]
        weighted = self.settings["prompt_weights"]
        with torch.no_grad():
            return encode_prompts(self.pipeline, [text], [negative], clip_skip, max_token_length, weighted=weighted)

    def _with_tokens(self, text: str) -> str:
        """The prompt, with each word that stands for trained tokens replaced by these tokens."""
        for word, tokens in self.settings["new_tokens"].items():
            text = re.sub(rf"\b{re.escape(word)}\b", tokens, text, flags=re.IGNORECASE)
        return text


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_PROMPT:
        raise ValueError(f"{name}: must be a text of at most {_MAX_PROMPT} characters.")
    return value


def _integer(parameters: dict[str, Any], name: str, default: int, minimum: int, maximum: int) -> int:
    value = parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise ValueError(f"{name}: must be a whole number from {minimum} to {maximum}.")
    return value


def _side(parameters: dict[str, Any], name: str, resolution: int) -> int:
    value = _integer(parameters, name, resolution, 16, 2 * resolution)
    if value % 8:
        raise ValueError(f"{name}: {value} is not a multiple of 8, which the VAE needs.")
    return value


def _guidance(value: object) -> float:
    number = math.nan
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            number = float(value)  # type: ignore[arg-type]
    if not 0 <= number <= _MAX_GUIDANCE:  # also rejects nan
        raise ValueError(f"guidance_scale: must be a number from 0 to {_MAX_GUIDANCE:g}.")
    return number
