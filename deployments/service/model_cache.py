"""The models in memory: each base model with the adapters that were used last, switched without loading it again."""

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
from naruto_core.devices import computed_precision
from naruto_core.generation import Painter

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


_log = logging.getLogger("naruto.service")


@dataclass
class _BaseModel:
    pipeline: "StableDiffusionXLPipeline"
    adapters: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])  # least recently used first


class ModelCache:
    """Keeps `warm_bases` base models and, on each, `warm_adapters` adapters. Only the engine's thread may use it."""

    def __init__(self, device: torch.device, warm_bases: int, warm_adapters: int, metrics: Metrics) -> None:
        self._device, self._warm_bases, self._warm_adapters = device, warm_bases, warm_adapters
        self._metrics, self._bases = metrics, OrderedDict[Hashable, _BaseModel]()

    def painter(self, spec: ModelSpec) -> Painter:
        """A Painter of `spec`. Painters of the same base model share it: only the newest one may be used.

        Raises ModelUnusable if the model or an adapter cannot be loaded.
        """
        base = self._base_model(spec)
        self._set_adapters(base, spec)
        return Painter(base.pipeline, spec.section)

    def device_memory(self) -> int:
        """Bytes that torch has reserved on the GPU; 0 on a CPU."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def _base_model(self, spec: ModelSpec) -> _BaseModel:
        # new tokens change the text encoders, so a run with tokens has a base model to itself
        key = (spec.model, spec.section.mixed_precision, spec.name if spec.tokens else "")
        if key in self._bases:
            self._bases.move_to_end(key)
            return self._bases[key]
        while len(self._bases) >= self._warm_bases:
            self._bases.popitem(last=False)
        started = time.perf_counter()
        base = _BaseModel(sdxl.load_pipeline(spec.model, spec.section.mixed_precision, self._device))
        for blend in spec.blends if spec.tokens else ():
            if (blend.folder / textual_inversion.FILE).is_file():
                textual_inversion.load_tokens(base.pipeline, blend.folder / textual_inversion.FILE)
        self._bases[key] = base
        seconds = time.perf_counter() - started
        self._metrics.load_seconds.labels("base").observe(seconds)
        precision = computed_precision(spec.section.mixed_precision, self._device)
        facts = {"model": spec.model.base, "seconds": round(seconds, 3), "precision": precision}
        _log.info("loaded a base model", extra=facts)
        return base

    def _set_adapters(self, base: _BaseModel, spec: ModelSpec) -> None:
        """Load the adapters of `spec` that are not loaded, unload the oldest others, and activate those of `spec`."""
        active = {_peft_name(blend.folder): blend for blend in spec.blends if (blend.folder / LORA_FILE).is_file()}
        for name, blend in active.items():
            if name not in base.adapters:
                started = time.perf_counter()
                load_lora(base.pipeline, blend.folder / LORA_FILE, name)
                self._metrics.load_seconds.labels("adapter").observe(time.perf_counter() - started)
            base.adapters[name] = None
            base.adapters.move_to_end(name)
        inactive = [name for name in base.adapters if name not in active]
        for name in inactive[: max(0, len(base.adapters) - self._warm_adapters)]:
            base.pipeline.delete_adapters(name)
            del base.adapters[name]
        if active:
            base.pipeline.enable_lora()
            base.pipeline.set_adapters(list(active), [blend.scale for blend in active.values()])
        elif base.adapters:
            base.pipeline.disable_lora()


def _peft_name(folder: Path) -> str:
    """PEFT makes a module's name of it, so it has no dots."""
    return "a" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
