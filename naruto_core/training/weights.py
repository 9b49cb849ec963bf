"""Everything that learns: put in, flattened, computed with in half precision, averaged, taken out again."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from naruto_core import devices
from naruto_core.adapter_file import write_adapter
from naruto_core.artifacts import LORA_FILE
from naruto_core.recipe_training import TrainingSection
from naruto_core.textual_inversion import FILE, add_tokens, write_tokens
from naruto_core.training.lora import Swap, Switch, add_adapters, give_all, swap_in, trainable
from naruto_core.training.optimizer import HalfCopy, attach, flatten, group_weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


class Weights:
    """The adapter and new tokens of one training inside `pipeline`.

    `named` are fp32 masters by full name, views into the vectors of `flats`, one for each of `groups`.
    """

    def __init__(
        self, pipeline: "StableDiffusionXLPipeline", section: TrainingSection, tokens: Mapping[str, str]
    ) -> None:
        devices.check_precision(section.mixed_precision, pipeline.unet.device)
        self.switch, self.named, self.tokens = Switch(), dict[str, nn.Parameter](), dict[str, nn.Parameter]()
        self._put_in(pipeline, section, tokens)
        self.groups = group_weights(self.named, section)
        self.flats = [flatten(list(group.parameters.values())) for group in self.groups]
        self._copies = self._working_copies(devices.half(section.mixed_precision))
        self._decay = section.ema_decay
        self._averages = [flat.weights.clone() for flat in self.flats] if self._decay else []

    def _put_in(
        self, pipeline: "StableDiffusionXLPipeline", section: TrainingSection, tokens: Mapping[str, str]
    ) -> None:
        """Adapters and tokens into `pipeline`, whose learning parts then compute in the recipe's precision."""
        from peft.tuners.lora import LoraLayer

        inversion, parts = section.textual_inversion, (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2)
        if inversion is None or inversion.train_lora:
            add_adapters(pipeline, section)
            self.named |= trainable(pipeline)
        if inversion:
            self.tokens = add_tokens(pipeline, tokens, inversion.initializer_concept, section.seed)
            self.named |= self.tokens
        self._swaps: list[Swap] = [swap for part in parts for swap in swap_in(part, self.switch)]
        self._dora = [layer for part in parts for layer in part.modules() if isinstance(layer, LoraLayer)]
        if half := devices.half(section.mixed_precision):  # what learns is out of the way, or made whole again below
            for part in parts if self.learns_text else parts[:1]:
                nn.Module.to(part, half)  # the libraries' own `to` says something about every part
            for parameter in self.named.values():
                parameter.data = parameter.data.float()

    def _working_copies(self, half: torch.dtype | None) -> list[HalfCopy]:
        """What the lean layers compute with: half-precision copies of every group, or the masters themselves."""
        copies: list[HalfCopy] = []
        working: dict[nn.Parameter, torch.Tensor] = {p: p for p in self.named.values()}
        if half and self._swaps:
            for group, flat in zip(self.groups, self.flats, strict=True):
                parameters = list(group.parameters.values())
                copies.append(HalfCopy(flat, parameters, half))
                working |= zip(parameters, copies[-1].copies, strict=True)
        give_all(self._swaps, working.__getitem__)
        return copies

    @property
    def learns_text(self) -> bool:
        """Whether texts have to be encoded anew at every step."""
        return any(not name.startswith("unet.") for name in self.named)

    def gather(self) -> None:
        """After a backward pass: all gradients into the flat fp32 vectors."""
        for copy in self._copies:
            copy.gather()

    def moved(self, steps: int) -> None:
        """After an optimizer step, the `steps`-th: the working copies follow, the averages a little."""
        for copy in self._copies:
            copy.follow()
        if self._decay:
            # as diffusers' EMAModel: young averages forget faster, the first step takes their place
            decay = min(self._decay, steps / (9 + steps)) if steps > 1 else 0.0
            for average, flat in zip(self._averages, self.flats, strict=True):
                average.lerp_(flat.weights, 1 - decay)

    @contextmanager
    def base_model(self) -> Generator[None]:
        """Inside the block the adapter is switched off."""
        for layer in self._dora:
            layer.enable_adapters(False)
        with self.switch.off():
            try:
                yield
            finally:
                for layer in self._dora:
                    layer.enable_adapters(True)

    @contextmanager
    def shipped(self) -> Generator[None]:
        """Inside the block, `pipeline` carries what would be written now: the averages, in PEFT's own layers."""
        kept = [flat.weights.clone() for flat in self.flats] if self._averages else []
        self.finish()
        try:
            yield
        finally:
            for flat, own in zip(self.flats, kept, strict=False):
                flat.weights.copy_(own)
            for swap in self._swaps:
                swap.install()
            for group, flat in zip(self.groups, self.flats, strict=True):
                attach(list(group.parameters.values()), flat)  # whoever drew with them has frozen and halved them

    def finish(self) -> None:
        """Leave the weights that are to be written in `pipeline`, in PEFT's own layers again."""
        for flat, average in zip(self.flats, self._averages, strict=False):
            flat.weights.copy_(average)
        for swap in self._swaps:
            swap.restore()

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of this."""
        averages = {f"average.{index}": average for index, average in enumerate(self._averages)}
        return {**self.named, **averages}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` gave; every name must be there."""
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(tensors[name])
        for index, average in enumerate(self._averages):
            average.copy_(tensors[f"average.{index}"])
        for copy in self._copies:
            copy.follow()


def write_files(pipeline: "StableDiffusionXLPipeline", weights: Weights, folder: Path) -> list[Path]:
    """Write into `folder` what `weights` has learnt in `pipeline`, and say which files.

    The weights must be shipped or finished: in the pipeline, in PEFT's own layers.
    """
    files: list[Path] = []
    if weights.named.keys() - weights.tokens.keys():
        files.append(folder / LORA_FILE)
        write_adapter(pipeline, files[-1])
    if weights.tokens:
        files.append(folder / FILE)
        write_tokens(weights.tokens, files[-1])
    return files
