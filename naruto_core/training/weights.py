"""The trainable weights: added to the pipeline, flattened, copied to half precision, averaged, written to files."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from naruto_core import devices
from naruto_core.adapter_file import model_parts, read_adapter, write_adapter
from naruto_core.artifacts import LORA_FILE
from naruto_core.recipe_training import TrainingSection
from naruto_core.textual_inversion import FILE, add_tokens, write_tokens
from naruto_core.training.lora import (
    AdapterSwitch,
    LayerSwap,
    add_adapters,
    load_initial,
    match_magnitudes,
    replace_lora_layers,
    set_lora_weights,
    trainable,
)
from naruto_core.training.optimizer import HalfCopy, attach_views, flatten_parameters, parameter_groups

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
        self.switch, self.named, self.tokens = AdapterSwitch(), dict[str, nn.Parameter](), dict[str, nn.Parameter]()
        self._add_to(pipeline, section, tokens)
        self.groups = parameter_groups(self.named, section)
        self.flats = [flatten_parameters(list(group.parameters.values())) for group in self.groups]
        self._copies = self._working_copies(devices.half(section.mixed_precision, pipeline.unet.device))
        self._decay = section.ema_decay
        self._averages = [flat.weights.clone() for flat in self.flats] if self._decay else []

    def _add_to(
        self, pipeline: "StableDiffusionXLPipeline", section: TrainingSection, tokens: Mapping[str, str]
    ) -> None:
        """Add adapters and tokens to `pipeline`; the models that learn then compute in the recipe's precision."""
        from peft.tuners.lora import LoraLayer

        inversion, parts = section.textual_inversion, (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2)
        if inversion is None or inversion.train_lora:
            add_adapters(pipeline, section)
            self.named |= trainable(pipeline)
        if inversion:
            self.tokens = add_tokens(pipeline, tokens, inversion.initializer_concept, section.seed)
            self.named |= self.tokens
        initial: dict[str, torch.Tensor] = {}  # as in the file: half precision below would round it
        if section.init_adapter:
            file = read_adapter(Path(section.init_adapter))
            load_initial(model_parts(pipeline), file)
            match_magnitudes(model_parts(pipeline), file)
            initial = {name: parameter.detach().clone() for name, parameter in self.named.items()}
        self._swaps: list[LayerSwap] = [swap for part in parts for swap in replace_lora_layers(part, self.switch)]
        self._dora = [layer for part in parts for layer in part.modules() if isinstance(layer, LoraLayer)]
        half = devices.half(section.mixed_precision, pipeline.unet.device)
        if half:  # trainable weights go back to fp32 below
            for part in parts if self.learns_text else parts[:1]:
                nn.Module.to(part, half)  # the libraries' own `to` logs a line per model
            for name, parameter in self.named.items():
                parameter.data = initial.get(name, parameter.data).float()

    def _working_copies(self, half: torch.dtype | None) -> list[HalfCopy]:
        """What the LowRankLayers compute with: half-precision copies of every group, or the masters themselves."""
        copies: list[HalfCopy] = []
        working: dict[nn.Parameter, torch.Tensor] = {p: p for p in self.named.values()}
        if half and self._swaps:
            for group, flat in zip(self.groups, self.flats, strict=True):
                parameters = list(group.parameters.values())
                copies.append(HalfCopy(flat, parameters, half))
                working |= zip(parameters, copies[-1].copies, strict=True)
        set_lora_weights(self._swaps, working.__getitem__)
        return copies

    @property
    def learns_text(self) -> bool:
        """Whether text encoders or new tokens learn, so that texts are encoded at every step."""
        return any(not name.startswith("unet.") for name in self.named)

    def collect_gradients(self) -> None:
        """Call after a backward pass: adds all gradients to the flat fp32 vectors."""
        for copy in self._copies:
            copy.collect_gradient()

    def after_update(self, steps: int) -> None:
        """Call after optimizer step number `steps` (from 1): updates the working copies and the running averages."""
        for copy in self._copies:
            copy.update()
        if self._decay:
            # as diffusers' EMAModel: decay is smaller in the first steps, and 0 in the first one
            decay = min(self._decay, steps / (9 + steps)) if steps > 1 else 0.0
            for average, flat in zip(self._averages, self.flats, strict=True):
                average.lerp_(flat.weights, 1 - decay)

    @contextmanager
    def base_model(self) -> Generator[None]:
        """Inside the block the adapter is disabled."""
        for layer in self._dora:
            layer.enable_adapters(False)
        with self.switch.disabled():
            try:
                yield
            finally:
                for layer in self._dora:
                    layer.enable_adapters(True)

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Inside the block, the layers compute with the weights to write: the averages if there are any."""
        saved = [flat.weights.clone() for flat in self.flats] if self._averages else []
        self._set(self._averages)
        try:
            yield
        finally:
            self._set(saved)

    def _set(self, values: Sequence[torch.Tensor]) -> None:
        """Set the vectors to `values`, and the working copies; [] changes nothing."""
        for flat, value in zip(self.flats, values, strict=False):
            flat.weights.copy_(value)
        for copy in self._copies if values else ():
            copy.update()

    @contextmanager
    def exported(self) -> Generator[None]:
        """Inside the block, `pipeline` has the weights to write: the averages if there are any, in PEFT's layers."""
        with self.averaged():
            self.finish()
            try:
                yield
            finally:
                for swap in self._swaps:
                    swap.install()
                for group, flat in zip(self.groups, self.flats, strict=True):
                    attach_views(list(group.parameters.values()), flat)  # drawing froze and halved them

    def finish(self) -> None:
        """Leave the weights to write in `pipeline`: the averages if there are any, in PEFT's layers."""
        for flat, average in zip(self.flats, self._averages, strict=False):
            flat.weights.copy_(average)
        for swap in self._swaps:
            swap.restore()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors for a checkpoint, by name."""
        averages = {f"average.{index}": average for index, average in enumerate(self._averages)}
        return {**self.named, **averages}

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Load what `state_dict` returned. Raises KeyError when a name is missing."""
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(tensors[name])
        for index, average in enumerate(self._averages):
            average.copy_(tensors[f"average.{index}"])
        for copy in self._copies:
            copy.update()


def write_files(pipeline: "StableDiffusionXLPipeline", weights: Weights, folder: Path) -> list[Path]:
    """Write the trained weights in `pipeline` into `folder`; the paths of the files.

    Call it inside `Weights.exported`, or after `Weights.finish`.
    """
    files: list[Path] = []
    if weights.named.keys() - weights.tokens.keys():
        files.append(folder / LORA_FILE)
        write_adapter(pipeline, files[-1])
    if weights.tokens:
        files.append(folder / FILE)
        write_tokens(weights.tokens, files[-1])
    return files
