"""The means to start the real service in a process of its own."""

import os
from collections.abc import Iterator

import pytest

from tests.preloaded import Preloaded, preloaded


@pytest.fixture(scope="session")
def services() -> Iterator[Preloaded]:
    """What starts the service in a process of its own, without the seconds that imports take."""
    pipeline = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
    modules = ("deployments.service.__main__", "deployments.service.app", "peft", "open_clip", pipeline)
    with preloaded(modules, os.environ) as opened:
        yield opened
