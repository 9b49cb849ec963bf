"""New captions by a BLIP model (Li et al. 2022), as in the report's dataset.

A model is a folder or a hub id with a pinned revision; safetensors only, and none of its code is executed. Beam search
without sampling: the same model gives the same caption for the same picture.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from naruto_core.artifacts import sha256_bytes, sha256_folder
from naruto_core.errors import ModelUnusable
from naruto_core.hub import check_hub_snapshot
from naruto_core.sdxl import locate, quiet_loading

if TYPE_CHECKING:
    from PIL.Image import Image

BEAMS = 3
MAX_TOKENS = 40  # of a caption; CLIP reads 77, including the instance prompt
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOAD_ERRORS = (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Captioner:
    """A loaded model: `write` returns the captions of a batch of RGB pictures; `id` identifies the weights."""

    id: str
    write: Callable[[list["Image"]], list[str]]


def load_captioner(name: str, revision: str | None, device: torch.device) -> Captioner:
    """The BLIP model in the folder `name`, or of the hub id `name` at `revision` (40 hex digits), on `device`.

    Raises ModelUnusable when it does not exist, is another kind of model, lacks weights, or has no safetensors.
    """
    source, pinned = _locate(name, revision)
    try:
        model, processor = _load(source, pinned)
    except _LOAD_ERRORS as error:
        raise ModelUnusable(f"cannot load {name} as a captioning model: {_reason(error)}") from error
    model.eval().requires_grad_(False).to(device)

    def write(pictures: list["Image"]) -> list[str]:
        pixels = processor(images=pictures, return_tensors="pt")["pixel_values"].to(device)
        with torch.inference_mode():
            ids = model.generate(pixel_values=pixels, max_new_tokens=MAX_TOKENS, num_beams=BEAMS, do_sample=False)
        texts: list[str] = processor.batch_decode(ids[:, 1:], skip_special_tokens=True)  # without the start token
        return [" ".join(text.split()) for text in texts]

    return Captioner(f"blip:{pinned or _digest(Path(source))}"[:21], write)


def recaption(
    pictures: "Sequence[Callable[[], Image]]", model: Captioner, batch_size: int, on_done: Callable[[int], None]
) -> list[str]:
    """A caption for each picture, in order; pictures are opened batch by batch.

    `on_done` is called with the number of finished captions. A caption may be "".
    """
    captions: list[str] = []
    for start in range(0, len(pictures), batch_size):
        captions += model.write([load().convert("RGB") for load in pictures[start : start + batch_size]])
        on_done(len(captions))
    return captions


def _locate(name: str, revision: str | None) -> tuple[str, str | None]:
    """Folder and None, or hub id and commit. Raises ModelUnusable for a branch, because it may change."""
    is_hub_id = not Path(name).expanduser().is_dir() and name.count("/") == 1 and not name.startswith(("/", ".", "~"))
    if is_hub_id and not name.startswith("package:") and not _COMMIT.fullmatch(revision or ""):
        raise ModelUnusable(
            f"{name} is no folder here, and a hub id needs a pinned revision: set the commit as 40 hex digits."
        )
    return locate(name, revision)


def _load(source: str, revision: str | None) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoProcessor, BlipForConditionalGeneration

    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}  # ignored for a folder
    kind = AutoConfig.from_pretrained(source, **options).model_type
    if kind != "blip":
        raise ValueError(f"its model type is '{kind}', not 'blip'.")
    with quiet_loading():
        processor: Any = AutoProcessor.from_pretrained(source, **options)
        loaded: Any = BlipForConditionalGeneration.from_pretrained(
            source, revision=options["revision"], use_safetensors=True, output_loading_info=True
        )
    if revision:
        check_hub_snapshot(source, revision, "config.json")
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        # transformers would initialize them at random
        raise ValueError(f"{len(missing)} of its weights are missing, the first is {missing[0]}.")
    return model, processor


def _digest(folder: Path) -> str:
    """A digest of the weights, the image processor and the tokenizer."""
    parts = [sha256_folder(folder, suffix) for suffix in (".safetensors", ".json", ".txt")]
    return sha256_bytes("".join(parts).encode())


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
