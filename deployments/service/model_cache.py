"""Loaded models. One base serves many adapters, which are put on and taken off without loading it again."""

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from deployments.service.metrics import Metrics
from deployments.service.model_registry import ModelSpec
from naruto_core import sdxl, textual_inversion
from naruto_core.adapter_file import load_lora
from naruto_core.artifacts import LORA_FILE
from naruto_core.generation import Painter

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


_log = logging.getLogger("naruto.service")


@dataclass
class _Base:
    pipeline: "StableDiffusionXLPipeline"
    adapters: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])  # least recently used first


class ModelCache:
    """Used by one thread, the engine's."""

    def __init__(self, device: torch.device, warm_bases: int, warm_adapters: int, metrics: Metrics) -> None:
        self._device, self._warm_bases, self._warm_adapters = device, warm_bases, warm_adapters
        self._metrics, self._bases = metrics, OrderedDict[Hashable, _Base]()

    def painter(self, look: ModelSpec) -> Painter:
        """A Painter of `look`; those given before may be dressed otherwise from now on. Raises ModelUnusable."""
        base = self._base(look)
        self._dress(base, look)
        return Painter(base.pipeline, look.section)

    def device_memory(self) -> int:
        """Bytes that torch holds on the GPU; 0 on a CPU."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def _base(self, look: ModelSpec) -> _Base:
        # new tokens change the text encoders, so their run has a base to itself
        key = (look.model, look.section.mixed_precision, look.name if look.tokens else "")
        if key in self._bases:
            self._bases.move_to_end(key)
            return self._bases[key]
        while len(self._bases) >= self._warm_bases:
            self._bases.popitem(last=False)
        began = time.perf_counter()
        base = _Base(sdxl.load_pipeline(look.model, look.section.mixed_precision, self._device))
        for blend in look.blends if look.tokens else ():
            if (blend.folder / textual_inversion.FILE).is_file():
                textual_inversion.load_tokens(base.pipeline, blend.folder / textual_inversion.FILE)
        self._bases[key] = base
        seconds = time.perf_counter() - began
        self._metrics.load_seconds.labels("base").observe(seconds)
        _log.info("loaded a base model", extra={"model": look.model.base, "seconds": round(seconds, 3)})
        return base

    def _dress(self, base: _Base, look: ModelSpec) -> None:
        wanted = {_name(blend.folder): blend for blend in look.blends if (blend.folder / LORA_FILE).is_file()}
        for name, blend in wanted.items():
            if name not in base.adapters:
                began = time.perf_counter()
                load_lora(base.pipeline, blend.folder / LORA_FILE, name)
                self._metrics.load_seconds.labels("adapter").observe(time.perf_counter() - began)
            base.adapters[name] = None
            base.adapters.move_to_end(name)
        spare = [name for name in base.adapters if name not in wanted]
        for name in spare[: max(0, len(base.adapters) - self._warm_adapters)]:
            base.pipeline.delete_adapters(name)
            del base.adapters[name]
        if wanted:
            base.pipeline.enable_lora()
            base.pipeline.set_adapters(list(wanted), [blend.scale for blend in wanted.values()])
        elif base.adapters:
            base.pipeline.disable_lora()


def _name(folder: Path) -> str:
    """PEFT makes a module's name of it: no dots."""
    return "a" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
