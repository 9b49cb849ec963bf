"""What NVIDIA Triton's python backend runs: pictures by the fused model in the folder `model` beside this file.

Stands alone: it needs the packages of `requirements.txt`, the files `sampling.py` and `weight_check.py` beside it, and
nothing else of the project that wrote it. Of the requests that Triton hands over together, pictures that agree in
steps, guidance and size share their denoising. Every batch is filled up to the same size, because kernels choose their
order of summation by shape: so a picture's bytes do not depend on its company.
"""

import json
import logging
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from diffusers import StableDiffusionXLPipeline

sys.path.insert(0, str(Path(__file__).parent))  # before any package of that name

from sampling import NotFinite, decode_picture, load_vae, make_scheduler
from weight_check import check_pipeline

# diffusers logs the end of a prompt that is too long for the text encoders: prompts are private
logging.getLogger("diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl").setLevel(logging.ERROR)

_LONGEST_PROMPT, _MOST_STEPS, _MOST_GUIDANCE = 2000, 150, 30.0


@dataclass(frozen=True, slots=True)
class Look:
    """What pictures of one batch have in common; `width` and `height` in pixels."""

    steps: int
    guidance: float
    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """One picture to draw; each is one of its own, even if two ask for the same."""

    prompt: str
    negative_prompt: str
    seed: int
    look: Look


class TritonPythonModel:
    """Loads once; each call draws what Triton hands over."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model onto the device that Triton gives this instance."""
        folder = Path(args["model_repository"]) / args["model_version"] / "model"
        self.settings: dict[str, Any] = json.loads((folder / "generation.json").read_text(encoding="utf-8"))
        most = json.loads(args["model_config"])["max_batch_size"]
        self.batch_size = 1 << (most - 1).bit_length()  # a power of two: MKL sums the last of 6 rows in another order
        on_gpu = args["model_instance_kind"] == "GPU"
        # fp16, not what torch supports: a T4 says yes to bf16 and emulates it
        dtype = torch.float16 if on_gpu else torch.float32
        self.pipeline = StableDiffusionXLPipeline.from_pretrained(
            str(folder),
            vae=load_vae(folder, dtype),
            torch_dtype=dtype,
            use_safetensors=True,
            add_watermarker=False,
        ).to(f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu")
        check_pipeline(folder, self.pipeline)
        self.pipeline.scheduler = make_scheduler(self.settings["scheduler"], self.pipeline.scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer for each request: its pictures and their seeds, or a sentence that names what cannot be drawn."""
        asked = [self._read(request) for request in requests]
        orders = [order for one in asked if isinstance(one, list) for order in one]
        drawn: dict[Order, np.ndarray | Exception] = {}
        for look in dict.fromkeys(order.look for order in orders):
            alike = [order for order in orders if order.look == look]
            try:
                drawn |= zip(alike, self._draw(alike), strict=True)
            except Exception as error:  # noqa: BLE001 (whatever it is, those of another look are served)
                drawn |= dict.fromkeys(alike, error)
        return [_answer(one, drawn) if isinstance(one, list) else one for one in asked]

    def _read(self, request: Any) -> Any:
        """The pictures that a request asks for; or its answer, where it asks for what cannot be drawn."""
        try:
            prompts = _column(request, "PROMPT", 0, None)
            usual, many = self.settings, len(prompts)
            resolution = usual["resolution"]
            sizes = _column(request, "SIZE", many, [resolution, resolution])
            if any(size != sizes[0] for size in sizes):
                raise ValueError("SIZE: the pictures of one request have one size.")
            orders = []
            for prompt, negative, seed, steps, guidance, size in zip(
                prompts,
                _column(request, "NEGATIVE_PROMPT", many, usual["negative_prompt"].encode()),
                _column(request, "SEED", many, None),
                _column(request, "STEPS", many, usual["num_inference_steps"]),
                _column(request, "GUIDANCE", many, usual["guidance_scale"]),
                sizes,
                strict=True,
            ):
                look = Look(
                    _whole("STEPS", steps, 1, _MOST_STEPS),
                    _guidance(guidance),
                    *(_side(side, 2 * resolution) for side in size),
                )
                text = _text("PROMPT", prompt)
                if not text.strip():
                    raise ValueError("PROMPT: a text that is not empty is wanted.")
                chosen = secrets.randbelow(2**31) if seed is None else _whole("SEED", seed, 0, 2**63 - 1)
                orders.append(Order(self._with_tokens(text), _text("NEGATIVE_PROMPT", negative), chosen, look))
        except ValueError as error:
            return _refusal(str(error), pb_utils.TritonError.INVALID_ARG)
        return orders

    def _with_tokens(self, text: str) -> str:
        """A prompt with the words that stand for trained tokens replaced by those."""
        for word, tokens in self.settings["new_tokens"].items():
            text = re.sub(rf"\b{re.escape(word)}\b", tokens, text, flags=re.IGNORECASE)
        return text

    def _draw(self, orders: list[Order]) -> list[np.ndarray | Exception]:
        """Pictures of one look, in their order, each (height, width, 3), or why there is none."""
        full = [*orders, *[orders[-1]] * (self.batch_size - len(orders))]
        look = orders[0].look
        # noise is made on the CPU: the same seed is the same picture on every device
        latents = self.pipeline(
            prompt=[order.prompt for order in full],
            negative_prompt=[order.negative_prompt for order in full],
            num_inference_steps=look.steps,
            guidance_scale=look.guidance,
            width=look.width,
            height=look.height,
            clip_skip=self.settings["clip_skip"],
            generator=[torch.Generator().manual_seed(order.seed) for order in full],
            output_type="latent",
        ).images[: len(orders)]
        return [self._decode(one[None]) for one in latents]

    def _decode(self, latents: torch.Tensor) -> np.ndarray | Exception:
        """Latents (1, 4, height / 8, width / 8) as a picture, or why there is none; others of its batch are drawn."""
        try:
            return np.asarray(decode_picture(self.pipeline, latents))
        except NotFinite as error:
            return error


def _answer(orders: list[Order], drawn: dict[Order, np.ndarray | Exception]) -> Any:
    """The pictures of one request with their seeds; or why they could not be drawn."""
    pictures = [drawn[order] for order in orders]
    if failure := next((one for one in pictures if isinstance(one, Exception)), None):
        return _refusal(f"drawing failed: {failure}", pb_utils.TritonError.INTERNAL)
    seeds = np.array([[order.seed] for order in orders], dtype=np.int64)
    return pb_utils.InferenceResponse([pb_utils.Tensor("IMAGE", np.stack(pictures)), pb_utils.Tensor("SEED", seeds)])


def _refusal(sentence: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(sentence, code))


def _column(request: Any, name: str, many: int, usual: Any) -> list[Any]:
    """One value of the input `name` for each picture (of SIZE two), `usual` where it was left out."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return [usual] * many
    rows = tensor.as_numpy().tolist()
    return [row[0] if len(row) == 1 else row for row in rows]


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{name}: a text in UTF-8 is wanted.") from None
    if len(text) > _LONGEST_PROMPT:
        raise ValueError(f"{name}: a text of at most {_LONGEST_PROMPT} characters is wanted.")
    return text


def _whole(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ValueError(f"{name}: a whole number from {least} to {most} is wanted.")
    return value


def _side(value: int, most: int) -> int:
    if _whole("SIZE", value, 16, most) % 8:
        raise ValueError(f"SIZE: {value} is not a multiple of 8, as the VAE needs it.")
    return value


def _guidance(value: float) -> float:
    if not 0 <= value <= _MOST_GUIDANCE:  # nan is not either
        raise ValueError(f"GUIDANCE: a number from 0 to {_MOST_GUIDANCE:g} is wanted.")
    return float(str(np.float32(value)))  # 7.3 as it was meant, not 7.300000190734863
