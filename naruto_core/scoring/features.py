"""Feature extractors: networks, named in the recipe, that embed pictures and texts as vectors.

An extractor's id contains the digest of its weights: features with different ids are never compared. Features are kept
in the embedding cache, so that a later score needs neither pictures nor network.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from naruto_core.artifacts import sha256_file
from naruto_core.errors import ModelUnusable
from naruto_core.hub import check_hub_file, locate, pinned_folder
from naruto_core.scoring.copied_pixels import SIDE as PIXELS_SIDE

if TYPE_CHECKING:  # torch and the networks' libraries are imported when something must be embedded
    import torch
    from PIL.Image import Image

Embed = Callable[["torch.Tensor"], "torch.Tensor"]
ChooseDevice = Callable[[], "torch.device"]
Rows = NDArray[np.float32]
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # the name of torch-fidelity's file
_BATCH_IN_CACHE = 8  # pictures of 299 pixels whose activations stay in a CPU's cache
_READERS = 4  # threads that read and prepare pictures
_TEXTS_AT_ONCE = 256  # whose tokens are counted


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network: `prepare` is for one picture, `embed` maps a batch of prepared pictures to (n, d).

    `tokenize` and `embed_text` do the same for texts; both are None where the network reads no texts.
    """

    prepare: Callable[["Image"], "torch.Tensor"]
    embed: Embed
    tokenize: Callable[[list[str]], "torch.Tensor"] | None
    embed_text: Embed | None
    device: "torch.device"


class Extractor:
    """A network by its `id`, which is made of the digests of its weights and of its preprocessing.

    It is loaded when a picture needs it: not at all where the cache holds all features. `load_tokenizer` loads the
    tokenizer alone, an open_clip one; None where the network reads no texts.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 (it is called id everywhere)
        load: Callable[[], Network],
        load_tokenizer: Callable[[], Any] | None = None,
    ) -> None:
        self.id, self._load, self._load_tokenizer = id, load, load_tokenizer

    @cached_property
    def network(self) -> Network:
        """The loaded network. Raises ModelUnusable when it cannot be loaded."""
        try:
            return self._load()
        except (OSError, RuntimeError, ValueError, AssertionError, UnpicklingError) as error:
            raise ModelUnusable(f"cannot load the extractor {self.id}: {' '.join(str(error).split())[:200]}") from error

    def truncated(self, texts: Sequence[str]) -> list[str]:
        """Those of `texts` of which the network reads only the beginning; [] where it reads no texts."""
        if self._load_tokenizer is None:
            return []
        tokenizer = self._load_tokenizer()
        batches = (texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE))
        return [text for batch in batches for text in _truncated(tokenizer, batch)]


def _truncated(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The texts that have tokens behind the last one that `tokenizer` keeps."""
    kept = int(tokenizer.context_length)
    longest = max(len(text.encode()) for text in texts) + kept  # a token has at least one byte
    rows = tokenizer([*texts, ""], context_length=longest)[:, kept:]
    padding = rows[-1, -1]
    return [text for text, row in zip(texts, rows[:-1], strict=True) if bool((row != padding).any())]


def load_extractor(name: str, device: "torch.device | ChooseDevice") -> Extractor:
    """The extractor with this `name` in a recipe; a function for `device` is called when its network is loaded.

    `inception` is FID's own network (`inception:<file>`: with the weights in that file). `timm:`, `transformers:` and
    `open_clip:` are followed by a folder or by `<owner>/<name>@<commit>`. Any other name is an open_clip model:
    `package:...`, a folder, or `Arch/pretrained`. Raises ModelUnusable when its files are missing, e.g. offline before
    the first download.
    """
    kind, _, rest = name.partition(":")
    choose = device if callable(device) else lambda: device
    try:
        if kind == "inception":
            return _inception(rest, choose)
        if kind == "transformers":
            from naruto_core.scoring.hub_models import extractor_of_transformers

            return extractor_of_transformers(rest, choose)
        return _timm(rest, choose) if kind == "timm" else _open_clip(name, choose)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelUnusable(f"cannot load the extractor {name}: {' '.join(str(error).split())[:200]}") from error


def pixel_extractor() -> Extractor:
    """No network: the picture itself, 32 x 32 RGB pixels (0 to 255) in a row of 3,072; for `copied_pixels`."""

    def prepare(picture: "Image") -> "torch.Tensor":
        import torch
        from PIL.Image import Resampling

        small = picture.resize((PIXELS_SIDE, PIXELS_SIDE), Resampling.BILINEAR)
        return torch.from_numpy(np.array(small, dtype=np.float32))

    def load() -> Network:
        import torch

        return Network(prepare, lambda pixels: pixels.flatten(1), None, None, torch.device("cpu"))

    return Extractor(f"pixels:{PIXELS_SIDE}-1", load)


def _open_clip(name: str, choose_device: ChooseDevice) -> Extractor:
    kind, _, rest = name.partition(":")
    quick_gelu = False  # a folder's configuration says it
    if kind == "open_clip" or name.startswith("package:") or Path(name).is_dir():
        files = ("open_clip_config.json", "open_clip_model.safetensors")
        folder = pinned_folder(rest, files, kind) if kind == "open_clip" else Path(locate(name, None)[0])
        source, tag = f"local-dir:{folder}", None
        weights = sha256_file(folder / "open_clip_model.safetensors")
        settings = sha256_file(folder / "open_clip_config.json")
    else:
        import open_clip

        source, _, tag = name.partition("/")
        known = open_clip.get_pretrained_cfg(source, tag)
        if not known:
            raise ModelUnusable(f"{name} is neither a model folder nor an Arch/pretrained that open_clip knows.")
        quick_gelu = _needs_quick_gelu(source, tag, known)
        weights = sha256_file(check_hub_file(Path(open_clip.download_pretrained(known))))
        facts = [*sorted(known.items()), *([("force_quick_gelu", True)] if quick_gelu else [])]
        settings = hashlib.sha256(repr(facts).encode()).hexdigest()

    def load() -> Network:
        import open_clip

        device = choose_device()
        loaded: Any = open_clip.create_model_from_pretrained(
            source, pretrained=tag, device=device, force_quick_gelu=quick_gelu
        )
        model, prepare = loaded
        model.eval().requires_grad_(False)
        return Network(prepare, model.encode_image, load_tokenizer(), model.encode_text, device)

    def load_tokenizer() -> Any:
        import open_clip

        return open_clip.get_tokenizer(source)

    return Extractor(f"open_clip:{weights[:16]}-{settings[:6]}", load, load_tokenizer)


def _needs_quick_gelu(architecture: str, tag: str, known: Mapping[str, Any]) -> bool:
    """Whether the weights `tag` were trained with QuickGELU and open_clip's `architecture` computes with GELU.

    open_clip only warns of it, and its features are then wrong. Raises ModelUnusable for the opposite, which it cannot
    change: an architecture with QuickGELU for weights without.
    """
    import open_clip

    config: Any = open_clip.get_model_config(architecture)
    trained, computes = bool(known.get("quick_gelu")), bool((config or {}).get("quick_gelu"))
    if computes and not trained:
        plain = architecture.removesuffix("-quickgelu")
        raise ModelUnusable(
            f"{architecture} computes with QuickGELU, and its weights {tag} were trained with GELU: name {plain}/{tag}."
        )
    return trained and not computes


def _timm(name: str, choose_device: ChooseDevice) -> Extractor:
    folder = pinned_folder(name, (_CONFIG, _WEIGHTS), "timm")
    weights, settings = sha256_file(folder / _WEIGHTS), sha256_file(folder / _CONFIG)

    def load() -> Network:
        import timm
        from timm.data import create_transform, resolve_data_config

        device = choose_device()
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
        model.eval().requires_grad_(False).to(device)
        prepare: Any = create_transform(**resolve_data_config({}, model=model))
        return Network(prepare, model, None, None, device)

    return Extractor(f"timm:{weights[:16]}-{settings[:6]}", load)


def _inception(weights: str, choose_device: ChooseDevice) -> Extractor:
    path = Path(weights or _checkpoints() / _INCEPTION)
    if not path.is_file():
        if weights:
            raise ModelUnusable(f"there is no file {weights} with the weights of Inception.")
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), progress=False)

    def load() -> Network:
        import torch
        from torchmetrics.image.fid import NoTrainInceptionV3

        torch.load(path, weights_only=True)  # refuses anything but tensors, which torch-fidelity would run
        device = choose_device()
        network: Any = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
        network.eval().requires_grad_(False).to(device)
        embed = _for_cpu(network) if device.type == "cpu" else network
        return Network(_as_bytes, embed, None, None, device)

    return Extractor(f"inception:{sha256_file(path)[:16]}-torchmetrics", load)


def _checkpoints() -> Path:
    """Where torch.hub keeps weights, without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(os.environ.get("TORCH_HOME") or cache).expanduser() / "hub" / "checkpoints"


def _for_cpu(network: "torch.nn.Module") -> Embed:
    """The network with batch norms folded into convolutions, and with channels-last weights.

    The same features up to rounding (5e-7 of the largest), in about half the time. A batch is small enough for the
    output of a layer to be in the cache when the next layer reads it.
    """
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for block in list(network.modules()):
        conv, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
            block.conv, block.bn = fuse_conv_bn_eval(conv, norm), torch.nn.Identity()
    layout: Any = torch.channels_last
    network.to(memory_format=layout)
    return lambda pixels: torch.cat([network(part) for part in pixels.split(_BATCH_IN_CACHE)])


def _as_bytes(picture: "Image") -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def embed_pictures(extractor: Extractor, pictures: "Sequence[Callable[[], Image]]", batch_size: int) -> Iterator[Rows]:
    """Features (b, d) of one batch after the other; each picture is opened shortly before its batch."""
    import torch

    network = extractor.network
    for batch in _prepared(network, pictures, batch_size):
        with torch.inference_mode():
            yield network.embed(batch.to(network.device)).float().cpu().numpy().astype(np.float32)


def _prepared(network: Network, pictures: "Sequence[Callable[[], Image]]", batch_size: int) -> "Iterator[torch.Tensor]":
    """Batches of prepared pictures; the next batch is read while the network embeds this one."""

    def prepare(load: "Callable[[], Image]") -> "torch.Tensor":
        return network.prepare(load().convert("RGB"))

    import torch

    with ThreadPoolExecutor(_READERS) as readers:
        following: list[Future[torch.Tensor]] = []
        for start in range(0, len(pictures) + batch_size, batch_size):
            batch, following = (
                following,
                [readers.submit(prepare, load) for load in pictures[start : start + batch_size]],
            )
            if batch:
                yield torch.stack([picture.result() for picture in batch])


def embed_texts(extractor: Extractor, texts: Sequence[str]) -> Rows:
    """Features (n, d) of `texts`, in one batch; raises ModelUnusable for an extractor without a text tower."""
    import torch

    network = extractor.network
    if network.tokenize is None or network.embed_text is None:
        raise ModelUnusable(f"the extractor {extractor.id} has no text tower; a CLIP score needs an open_clip model.")
    with torch.inference_mode():
        ids = network.tokenize(list(texts)).to(network.device)
        return network.embed_text(ids).float().cpu().numpy().astype(np.float32)
