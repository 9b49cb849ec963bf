"""Whether a base model is let go of before the next one is loaded."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from diffusers import StableDiffusionXLPipeline


@contextmanager
def counting_models() -> Iterator[list[int]]:
    """How many UNets of earlier loads were still alive at each load of a base model inside the block.

    Counted where `sdxl.load_pipeline` reads the files: what only a cycle of references held is gone by then.
    """
    load, loaded, alive = StableDiffusionXLPipeline.from_pretrained, list[weakref.ref[Any]](), list[int]()

    def counting(*given: Any, **options: Any) -> Any:
        alive.append(sum(unet() is not None for unet in loaded))
        pipeline = load(*given, **options)
        loaded.append(weakref.ref(pipeline.unet))
        return pipeline

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StableDiffusionXLPipeline, "from_pretrained", counting)
        yield alive
