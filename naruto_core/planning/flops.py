"""FLOPs and operations of SDXL's networks, counted on the meta device: no weights, no GPU.

A multiplication with an addition counts as two FLOPs, as `torch.utils.flop_counter` counts. An operation is a call of
ATen that computes something (views are left out): on a fast GPU, small batches take as long as Python needs to start
their operations, whatever they compute.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from naruto_core import sdxl
from naruto_core.recipe_sections import ModelSection
from naruto_core.recipe_training import ATTENTION, LoraLayer, TrainingSection
from naruto_core.single_file import SDXL_CONFIG
from naruto_core.training.lora import TEXT_TARGETS
from naruto_core.training.memory import META, FusedAttention, add_meta_lora, unet_inputs
from naruto_core.training.step import recompute

COUNTS_FILE = "counts.json"
MINIATURE = "package:naruto_core.mini/weights/base"
_NO_KERNEL = {torch.ops.aten._unsafe_view.default, torch.ops.aten.empty.memory_format}  # noqa: SLF001


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of a computation, and the number of operations that are started for it."""

    flops: float = 0.0
    operations: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.operations + other.operations)

    def times(self, count: float) -> "Work":
        """The work of `count` computations, one after the other."""
        return Work(self.flops * count, round(self.operations * count))

    def batch(self, size: int) -> "Work":
        """The work of a batch of `size`: the FLOPs of each, but the operations of one."""
        return Work(self.flops * size, self.operations)


class WorkCounter(TorchDispatchMode):
    """Counts the work of what is computed inside its block."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        options = dict(kwargs or {})
        output = func(*args, **options)
        count = flop_registry.get(func._overloadpacket)  # noqa: SLF001 (as torch's own FlopCounterMode does)
        flops = float(count(*args, **options, out_val=output)) if count else 0.0
        self.work += Work(flops, 0 if func.is_view or func in _NO_KERNEL else 1)
        return output


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What training adds to the networks, as far as their work depends on it."""

    rank: int
    layers: tuple[str, ...]
    text_encoders: bool
    use_dora: bool
    gradient_checkpointing: bool

    @property
    def name(self) -> str:
        """E.g. "rank 4 texts checkpointing"; layers other than the attention's are named."""
        layers = "" if self.layers == ATTENTION else "+".join(self.layers)
        words = [f"rank {self.rank}", layers, "dora" if self.use_dora else "", "texts" if self.text_encoders else ""]
        words.append("checkpointing" if self.gradient_checkpointing else "")
        return " ".join(word for word in words if word)

    @classmethod
    def of(cls, section: TrainingSection) -> "Adaptation":
        """The adaptation that a training section asks for."""
        text = section.text_encoder_lr is not None
        return cls(section.rank, section.lora_layers, text, section.use_dora, section.gradient_checkpointing)


class Architecture:
    """The networks of one base model on the meta device; each count is made once in a process."""

    def __init__(self, model: ModelSection) -> None:
        self._model = model
        self._parts = sdxl.describe_parts(model)
        self.parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in self._parts.items()}
        self._shipped = _read_counts().get(self.digest, {})
        self._counted = _counts_of_process(self.digest)

    @property
    def digest(self) -> str:
        """A digest of all weights' names and shapes: equal architectures do equal work."""
        shapes = {part: [(n, *p.shape) for n, p in net.named_parameters()] for part, net in self._parts.items()}
        return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:24]

    @property
    def counts(self) -> dict[str, Work]:
        """What this process counted of this architecture, by name."""
        return dict(self._counted)

    @property
    def tokens(self) -> int:
        """The length of a text."""
        return int(self._parts["text_encoder"].config.max_position_embeddings)

    def latent_side(self, resolution: int) -> int:
        """The side of the latents of a picture of `resolution` pixels."""
        return resolution // 2 ** (len(self._parts["vae"].config.block_out_channels) - 1)

    def unet(self, resolution: int) -> Work:
        """A forward pass of the UNet over one picture of `resolution` pixels."""
        unet, side = self._parts["unet"], self.latent_side(resolution)
        return self._count(f"unet {resolution}", lambda: partial(_forward, unet, side, self.tokens))

    def encode(self, resolution: int) -> Work:
        """The VAE encodes one picture."""
        pixels = torch.zeros(1, 3, resolution, resolution, device=META)
        return self._count(f"vae encode {resolution}", lambda: partial(self._parts["vae"].encode, pixels))

    def decode(self, resolution: int) -> Work:
        """The VAE decodes one picture."""
        vae, side = self._parts["vae"], self.latent_side(resolution)
        latents = torch.zeros(1, vae.config.latent_channels, side, side, device=META)
        return self._count(f"vae decode {resolution}", lambda: partial(vae.decode, latents))

    def texts(self) -> Work:
        """Both text encoders read one text."""
        encoders = self._parts["text_encoder"], self._parts["text_encoder_2"]
        return self._count("text encoders", lambda: lambda: [_read(part, self.tokens) for part in encoders])

    def training_pass(self, resolution: int, adaptation: Adaptation) -> Work:
        """Forward and backward pass for one picture, with the adapter; the text encoders too, where they learn."""
        name = f"training {resolution} {adaptation.name}"
        return self._count(name, lambda: self._prepare_training(resolution, adaptation), gradients=True)

    def _prepare_training(self, resolution: int, adaptation: Adaptation) -> Callable[[], Any]:
        """A forward and backward pass, with the adapter, on networks of its own."""
        parts, section = sdxl.describe_parts(self._model), _section(adaptation)
        unet: Any = parts["unet"]
        encoders = [parts["text_encoder"], parts["text_encoder_2"]] if adaptation.text_encoders else []
        add_meta_lora(unet, section, adaptation.layers, torch.float32)
        for encoder in encoders:
            add_meta_lora(encoder, section, TEXT_TARGETS, torch.float32)
        if adaptation.gradient_checkpointing:
            unet.enable_gradient_checkpointing(_recompute)
        unet.train()

        def train() -> None:
            loss = _forward(unet, self.latent_side(resolution), self.tokens).sum()
            for encoder in encoders:
                loss = loss + _read(encoder, self.tokens).sum()
            loss.backward()

        return train

    def _count(self, name: str, prepare: Callable[[], Callable[[], Any]], *, gradients: bool = False) -> Work:
        if name in self._shipped:
            return self._shipped[name]
        if name not in self._counted:
            compute = prepare()
            with WorkCounter() as counter, FusedAttention(), torch.set_grad_enabled(gradients):
                compute()
            self._counted[name] = counter.work
        return self._counted[name]


def _section(adaptation: Adaptation) -> TrainingSection:
    """A training section with the options that `add_meta_lora` reads."""
    options = {"rank": adaptation.rank, "lora_layers": adaptation.layers, "use_dora": adaptation.use_dora}
    return TrainingSection.model_validate({"instance_prompt": "x", "resolution": 64, **options})


def _recompute(block: Callable[..., Any], *inputs: Any) -> Any:
    """As training recomputes; PyTorch leaves function modes in a backward pass, so that it is entered again."""

    def fused(*values: Any) -> Any:
        with FusedAttention():
            return block(*values)

    return recompute(fused, *inputs)


def _forward(unet: Any, side: int, tokens: int) -> torch.Tensor:
    return unet(**unet_inputs(unet, 1, side, tokens)).sample


def _read(encoder: nn.Module, tokens: int) -> torch.Tensor:
    read = encoder(torch.zeros(1, tokens, device=META, dtype=torch.long), output_hidden_states=True)
    return read.hidden_states[-2]


@lru_cache(maxsize=16)
def _counts_of_process(digest: str) -> dict[str, Work]:
    """The counts of the architecture with this digest, by name: a sweep plans many runs of one architecture."""
    del digest
    return {}


@lru_cache(maxsize=1)
def _read_counts() -> dict[str, dict[str, Work]]:
    """The counts that are shipped (SDXL base 1.0 at the usual resolutions, the miniature), by digest and name."""
    file = resources.files("naruto_core.planning") / COUNTS_FILE
    if not file.is_file():
        return {}
    tree: dict[str, dict[str, list[float]]] = json.loads(file.read_text(encoding="utf-8"))
    return {
        digest: {name: Work(flops, int(operations)) for name, (flops, operations) in counts.items()}
        for digest, counts in tree.items()
    }


def architecture(model: ModelSection) -> Architecture:
    """The architecture of `model`, whose configuration is on this machine; made once in a process.

    Raises ModelUnusable when the configuration cannot be read.
    """
    return _architecture(model.model_dump_json())


@lru_cache(maxsize=8)
def _architecture(model: str) -> Architecture:
    return Architecture(ModelSection.model_validate_json(model))


def count_all() -> dict[str, dict[str, list[float]]]:
    """The content of counts.json, by digest and name: of SDXL base 1.0 and of the miniature."""
    sdxl_base, miniature = (
        _count_networks(base, resolutions, adapters)
        for base, resolutions, adapters in (
            (SDXL_CONFIG, (256, 512, 768, 1024), ((4, ATTENTION),)),
            (MINIATURE, (64, 128), ((4, ATTENTION), (16, ATTENTION), (32, tuple(sorted(get_args(LoraLayer)))))),
        )
    )
    return sdxl_base | miniature


def _count_networks(
    base: str, resolutions: Sequence[int], adapters: Sequence[tuple[int, tuple[LoraLayer, ...]]]
) -> dict[str, dict[str, list[float]]]:
    """All counts of a base model, with adapters of the shipped recipes' kind: their rank and layers."""
    networks = Architecture(ModelSection.model_validate({"base": base}))
    networks._shipped = {}  # noqa: SLF001 (counted again)
    networks.texts()
    for resolution in resolutions:
        for count in (networks.unet, networks.encode, networks.decode):
            count(resolution)
        for (rank, layers), texts, checkpointing in product(adapters, (False, True), (False, True)):
            networks.training_pass(resolution, Adaptation(rank, layers, texts, False, checkpointing))
    return {networks.digest: {name: [work.flops, work.operations] for name, work in networks.counts.items()}}


if __name__ == "__main__":  # python -m naruto_core.planning.flops: some minutes
    Path(__file__).with_name(COUNTS_FILE).write_text(json.dumps(count_all(), indent=1) + "\n", encoding="utf-8")
