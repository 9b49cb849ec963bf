"""Feature extractors: pictures and texts to vectors, by networks named in the recipe.

An extractor's id says which network, by the digest of its weights: features of different ids are
never compared. Embeddings are kept in files, so a later score needs no new pictures.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from naruto_core.artifacts import sha256_file
from naruto_core.errors import ModelUnusable
from naruto_core.sdxl import locate

if TYPE_CHECKING:
    from PIL.Image import Image

Embed = Callable[[torch.Tensor], torch.Tensor]
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Extractor:
    """A loaded network: `prepare` one picture, `embed` a batch of prepared ones to (n, d)."""

    id: str
    prepare: Callable[["Image"], torch.Tensor]
    embed: Embed
    tokenize: Callable[[list[str]], torch.Tensor] | None
    embed_text: Embed | None
    device: torch.device


def load_extractor(name: str, device: torch.device) -> Extractor:
    """`inception` (FID's own network), or an open_clip model: `package:...`, a folder, or `Arch/pretrained`.

    Raises ModelUnusable when it cannot be loaded, e.g. without the network for a first download.
    """
    return _inception(device) if name == "inception" else _open_clip(name, device)


def _open_clip(name: str, device: torch.device) -> Extractor:
    import open_clip

    try:
        if name.startswith("package:") or Path(name).is_dir():
            folder, _ = locate(name, None)
            digest = sha256_file(Path(folder) / "open_clip_model.safetensors")
            where = f"local-dir:{folder}"
            loaded: Any = open_clip.create_model_from_pretrained(where, device=device)
        else:
            where, _, tag = name.partition("/")
            loaded = open_clip.create_model_from_pretrained(where, pretrained=tag, device=device)
            digest = _digest(loaded[0])
        tokenizer = open_clip.get_tokenizer(where)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelUnusable(f"cannot load the extractor {name}: {' '.join(str(error).split())[:200]}") from error
    model, prepare = loaded
    model.eval().requires_grad_(False)
    return Extractor(f"open_clip:{digest[:16]}", prepare, model.encode_image, tokenizer, model.encode_text, device)


def _inception(device: torch.device) -> Extractor:
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"])
    except (OSError, RuntimeError) as error:
        raise ModelUnusable(f"cannot load FID's Inception network: {' '.join(str(error).split())[:200]}") from error
    network.eval().requires_grad_(False).to(device)

    def prepare(picture: "Image") -> torch.Tensor:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)

    return Extractor(f"inception:{_digest(network)[:16]}", prepare, network, None, None, device)


def _digest(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def embed_pictures(
    extractor: Extractor, pictures: "Sequence[Callable[[], Image]]", batch_size: int, on_done: Callable[[int], None]
) -> Rows:
    """Features (n, d) of pictures that are opened one batch at a time; `on_done` hears how many are finished."""
    rows: list[Any] = []
    for start in range(0, len(pictures), batch_size):
        batch = [extractor.prepare(load().convert("RGB")) for load in pictures[start : start + batch_size]]
        with torch.inference_mode():
            rows.append(extractor.embed(torch.stack(batch).to(extractor.device)).float().cpu().numpy())
        on_done(min(start + batch_size, len(pictures)))
    return np.concatenate(rows).astype(np.float32)


def embed_texts(extractor: Extractor, texts: Sequence[str]) -> Rows:
    """Features (n, d) of `texts`; raises ModelUnusable for an extractor without a text tower."""
    if extractor.tokenize is None or extractor.embed_text is None:
        raise ModelUnusable(f"the extractor {extractor.id} has no text tower; a CLIP score needs an open_clip model.")
    with torch.inference_mode():
        ids = extractor.tokenize(list(texts)).to(extractor.device)
        return extractor.embed_text(ids).float().cpu().numpy().astype(np.float32)
