"""What is exported for a Hugging Face Inference Endpoint, started by the real inference toolkit and asked over HTTP.

The toolkit is no package: NARUTO_TEST_INFERENCE_TOOLKIT names a checkout of it (0.5.6 was tried). Its pinned libraries
are those of the environment `oldest`.
"""

import base64
import io
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from tests.deployments.serving import free_port
from tests.loaders.environments import OLDEST, needs, python_of, variables, versions_of
from tests.loaders.exports import Exported, exported_run, painted, pixels_of

CHECKOUT = os.environ.get("NARUTO_TEST_INFERENCE_TOOLKIT")
PROMPT, SEED = "a person with red hair", 7
pytestmark = [
    needs(OLDEST),
    pytest.mark.skipif(not CHECKOUT, reason="NARUTO_TEST_INFERENCE_TOOLKIT can name a checkout of the toolkit"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    with exported_run("lora", tmp_path_factory.mktemp("exported")) as run:
        yield run


@pytest.fixture(scope="module")
def toolkit(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A client of the toolkit's own application, which serves the exported folder."""
    port, log = free_port(), tmp_path_factory.mktemp("toolkit") / "log"
    program = "huggingface_inference_toolkit.webservice_starlette:app"
    command = [python_of(OLDEST), "-m", "uvicorn", program, "--host", "127.0.0.1", "--port", str(port)]
    environment = variables(PYTHONPATH=f"{CHECKOUT}/src", HF_MODEL_DIR=str(exported.endpoint))
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                _wait_until_healthy(client, process, log)
                yield client
        finally:
            process.terminate()


def _wait_until_healthy(client: httpx2.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx2.TransportError:
            pass  # it does not listen yet
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
        time.sleep(0.2)


def test_the_toolkits_pins_are_the_environment_and_satisfy_what_the_folder_needs(exported: Exported):
    assert CHECKOUT
    setup = Path(CHECKOUT, "setup.py").read_text(encoding="utf-8")
    names = ("diffusers", "transformers", "accelerate", "peft", "huggingface_hub")
    pinned = dict(re.findall(rf'"({"|".join(names)})(?:\[[\w,]+\])?==([\d.]+)"', setup))
    assert set(pinned) == set(names)
    assert {name: versions_of(OLDEST)[name.replace("_", "-")] for name in pinned} == pinned
    for line in (exported.endpoint / "requirements.txt").read_text().splitlines():
        needed = Requirement(line)  # its start runs `pip install -r requirements.txt`, which must change nothing
        assert needed.specifier.contains(pinned[needed.name])


def test_it_answers_with_the_picture_that_the_painter_draws(exported: Exported, toolkit: httpx2.Client):
    asked = {"inputs": PROMPT, "parameters": {"seed": SEED}}
    expected = painted(exported, PROMPT, SEED)
    answer = toolkit.post("/", json=asked, headers={"Accept": "image/png"}).raise_for_status()
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert np.abs(pixels_of(picture) - expected).max() <= 1
    encoded = toolkit.post("/", json=asked).raise_for_status().json()
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert np.abs(pixels_of(picture) - expected).max() <= 1


def test_what_cannot_be_drawn_is_answered_with_the_handlers_sentence(toolkit: httpx2.Client):
    answer = toolkit.post("/", json={"inputs": PROMPT, "parameters": {"width": 60}})
    assert answer.status_code == 400
    assert answer.json() == {"error": "width: 60 is not a multiple of 8, which the VAE needs."}
