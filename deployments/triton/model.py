"""The model for NVIDIA Triton's python backend: draws with the fused model in the folder `model` beside this file.

It needs the packages of `requirements.txt` and the files `sampling.py`, `text_encoding.py` and `weight_check.py` beside
it, and no other file of the project that wrote it. Pictures of the requests that Triton passes together are drawn in
one batch if they have the same steps, guidance and size. Every batch is padded to the same size, because kernels choose
their order of summation by shape: so the bytes of a picture do not depend on the other pictures of its batch.
"""

import json
import logging
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from diffusers import StableDiffusionXLPipeline

sys.path.insert(0, str(Path(__file__).parent))  # before any package of that name

from sampling import NotFinite, decode_picture, load_vae, make_scheduler
from text_encoding import encode_prompts, split_weights
from weight_check import check_pipeline

# diffusers would log the end of a prompt that is too long for the text encoders, but prompts are private
logging.getLogger("diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl").setLevel(logging.ERROR)

_MAX_PROMPT, _MAX_STEPS, _MAX_GUIDANCE = 2000, 150, 30.0  # characters, steps, guidance scale


@dataclass(frozen=True, slots=True)
class BatchKey:
    """The settings that all pictures of a batch share; `width` and `height` in pixels."""

    steps: int
    guidance: float
    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture to draw; two with the same settings are still two (compared by identity)."""

    prompt: str
    negative_prompt: str
    seed: int
    batch_key: BatchKey


class ClientsGone(Exception):
    """Nobody waits for a picture of the batch any more."""


class TritonPythonModel:
    """Loads the model once; each call draws the requests that Triton passes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model onto the device that Triton gives this instance."""
        folder = Path(args["model_repository"]) / args["model_version"] / "model"
        self.settings: dict[str, Any] = json.loads((folder / "generation.json").read_text(encoding="utf-8"))
        max_batch_size = json.loads(args["model_config"])["max_batch_size"]
        # a power of two: of 6 rows, MKL sums the last in another order
        self.batch_size = 1 << (max_batch_size - 1).bit_length()
        on_gpu = args["model_instance_kind"] == "GPU"
        # fp16 even if torch reports bf16 as supported: a T4 emulates bf16
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
        """A response for each request: its pictures and their seeds, or an error that names the wrong input."""
        parsed = [self._parse(request) for request in requests]
        pictures = [picture for item in parsed if isinstance(item, list) for picture in item]
        asked_by: dict[Picture, list[Any]] = {}  # two requests may ask for the same picture
        for request, item in zip(requests, parsed, strict=True):
            for picture in item if isinstance(item, list) else []:
                asked_by.setdefault(picture, []).append(request)
        drawn: dict[Picture, np.ndarray | Exception] = {}
        for key in dict.fromkeys(picture.batch_key for picture in pictures):
            batch = [picture for picture in pictures if picture.batch_key == key]
            try:
                waiting = [request for picture in batch for request in asked_by[picture]]
                images = self._draw(batch, lambda: all(request.is_cancelled() for request in waiting))  # noqa: B023 (called at once)
                drawn |= zip(batch, images, strict=True)
            except Exception as error:  # noqa: BLE001 (whatever it is, the other batches are drawn)
                drawn |= dict.fromkeys(batch, error)
        return [_response(item, drawn) if isinstance(item, list) else item for item in parsed]

    def _parse(self, request: Any) -> Any:
        """The pictures (a list) that a request asks for; or its error response, if an input is not valid."""
        try:
            prompts = _column(request, "PROMPT", 0, None)
            defaults, n = self.settings, len(prompts)
            resolution = defaults["resolution"]
            sizes = _column(request, "SIZE", n, [resolution, resolution])
            if any(size != sizes[0] for size in sizes):
                raise ValueError("SIZE: all pictures of a request must have the same size.")
            pictures: list[Picture] = []
            for prompt, negative, seed, steps, guidance, size in zip(
                prompts,
                _column(request, "NEGATIVE_PROMPT", n, defaults["negative_prompt"].encode()),
                _column(request, "SEED", n, None),
                _column(request, "STEPS", n, defaults["num_inference_steps"]),
                _column(request, "GUIDANCE", n, defaults["guidance_scale"]),
                sizes,
                strict=True,
            ):
                key = BatchKey(
                    _integer("STEPS", steps, 1, _MAX_STEPS),
                    _guidance(guidance),
                    *(_side(side, 2 * resolution) for side in size),
                )
                text = _text("PROMPT", prompt)
                if self.settings["prompt_weights"]:
                    for weighted in (text, _text("NEGATIVE_PROMPT", negative)):
                        split_weights(weighted)  # ValueError for an invalid weight
                if not text.strip():
                    raise ValueError("PROMPT: must not be empty.")
                own_seed = secrets.randbelow(2**31) if seed is None else _integer("SEED", seed, 0, 2**63 - 1)
                pictures.append(Picture(self._with_tokens(text), _text("NEGATIVE_PROMPT", negative), own_seed, key))
        except ValueError as error:
            return _error(str(error), pb_utils.TritonError.INVALID_ARG)
        return pictures

    def _with_tokens(self, text: str) -> str:
        """The prompt, with each word that stands for trained tokens replaced by these tokens."""
        for word, tokens in self.settings["new_tokens"].items():
            text = re.sub(rf"\b{re.escape(word)}\b", tokens, text, flags=re.IGNORECASE)
        return text

    def _draw(self, pictures: list[Picture], is_cancelled: Callable[[], bool]) -> list[np.ndarray | Exception]:
        """Pictures of one batch, each (height, width, 3) with RGB in 0..255, or the error of a picture.

        Raises ClientsGone at the first step after which `is_cancelled`.
        """

        def on_step_end(_pipeline: Any, _step: int, _time: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            if is_cancelled():
                raise ClientsGone("the client has gone")
            return kwargs

        padded = [*pictures, *[pictures[-1]] * (self.batch_size - len(pictures))]
        key = pictures[0].batch_key
        # noise is drawn on the CPU, so that a seed gives the same picture on every device
        latents = self.pipeline(
            **self._encode(padded),
            num_inference_steps=key.steps,
            guidance_scale=key.guidance,
            width=key.width,
            height=key.height,
            generator=[torch.Generator().manual_seed(picture.seed) for picture in padded],
            callback_on_step_end=on_step_end,
            output_type="latent",
        ).images[: len(pictures)]
        return [self._decode(latent[None]) for latent in latents]

    def _encode(self, pictures: list[Picture]) -> dict[str, torch.Tensor]:
        """The prompts of `pictures` as arguments of the pipeline."""
        texts = [picture.prompt for picture in pictures], [picture.negative_prompt for picture in pictures]
        with torch.no_grad():
            clip_skip, length = self.settings["clip_skip"], self.settings["max_token_length"]
            return encode_prompts(self.pipeline, *texts, clip_skip, length, weighted=self.settings["prompt_weights"])

    def _decode(self, latents: torch.Tensor) -> np.ndarray | Exception:
        """Latents (1, 4, height / 8, width / 8) as a picture; or the error, so that the rest of the batch is drawn."""
        try:
            return np.asarray(decode_picture(self.pipeline, latents))
        except NotFinite as error:
            return error


def _response(pictures: list[Picture], drawn: dict[Picture, np.ndarray | Exception]) -> Any:
    """The pictures of a request with their seeds; or an error, if one of them could not be drawn."""
    images = [drawn[picture] for picture in pictures]
    if failure := next((image for image in images if isinstance(image, Exception)), None):
        gone = isinstance(failure, ClientsGone)
        return _error(
            f"drawing failed: {failure}", pb_utils.TritonError.CANCELLED if gone else pb_utils.TritonError.INTERNAL
        )
    seeds = np.array([[picture.seed] for picture in pictures], dtype=np.int64)
    return pb_utils.InferenceResponse([pb_utils.Tensor("IMAGE", np.stack(images)), pb_utils.Tensor("SEED", seeds)])


def _error(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _column(request: Any, name: str, n: int, default: Any) -> list[Any]:
    """The input `name`: one value for each of `n` pictures (two for SIZE); `default` if the input is missing."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return [default] * n
    rows = tensor.as_numpy().tolist()
    return [row[0] if len(row) == 1 else row for row in rows]


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{name}: must be UTF-8.") from None
    if len(text) > _MAX_PROMPT:
        raise ValueError(f"{name}: must have at most {_MAX_PROMPT} characters.")
    return text


def _integer(name: str, value: int, minimum: int, maximum: int) -> int:
    if not minimum <= value <= maximum:
        raise ValueError(f"{name}: must be from {minimum} to {maximum}.")
    return value


def _side(value: int, maximum: int) -> int:
    if _integer("SIZE", value, 16, maximum) % 8:
        raise ValueError(f"SIZE: {value} is not a multiple of 8, which the VAE needs.")
    return value


def _guidance(value: float) -> float:
    if not 0 <= value <= _MAX_GUIDANCE:  # also rejects nan
        raise ValueError(f"GUIDANCE: must be a number from 0 to {_MAX_GUIDANCE:g}.")
    return float(str(np.float32(value)))  # 7.3, not 7.300000190734863
