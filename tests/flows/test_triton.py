"""`naruto export triton`: its model repository, served by the real server and called by the real client."""

import base64
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from deployments.triton.server import Ports, find_server
from flows.exports import export_triton
from naruto_core import sampling, sdxl, text_encoding
from naruto_core.artifacts import Layout
from naruto_core.errors import ServiceFailed
from naruto_core.generation import Job, Painter
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import ModelSection
from naruto_core.settings import read_settings
from naruto_core.store.database import open_store
from tests.deployments.serving import serving
from tests.flows.conftest import Naruto, overflow_when_decoded

TYPES = {"PROMPT": "BYTES", "NEGATIVE_PROMPT": "BYTES", "SEED": "INT64", "STEPS": "INT32", "GUIDANCE": "FP32"}
NUMPY = {"BYTES": object, "INT64": np.int64, "INT32": np.int32, "FP32": np.float32}
RED, CAT = "a person with red hair", "a cat"


@pytest.fixture(scope="module")
def repository(small_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home, run_id = small_run
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(home))
        return export_triton(run_id, tmp_path_factory.mktemp("triton"))


@dataclass(frozen=True)
class Client:
    """A client of one server."""

    grpc: triton.InferenceServerClient
    address: str

    def ask(self, model: str = "naruto", **inputs: Any) -> tuple[np.ndarray, list[int]]:
        """Pictures (N, height, width, 3) and their seeds; a list as input is one value for each of N pictures."""
        tensors: list[triton.InferInput] = []
        for name, value in inputs.items():
            rows = value if isinstance(value, list) else [value]
            kind = TYPES.get(name, "INT32")
            array = np.array(rows, dtype=NUMPY[kind]).reshape(len(rows), -1)
            tensors.append(triton.InferInput(name, list(array.shape), kind))
            tensors[-1].set_data_from_numpy(array)
        answer = self.grpc.infer(model, tensors, client_timeout=200)
        pictures, seeds = answer.as_numpy("IMAGE"), answer.as_numpy("SEED")
        assert pictures is not None
        assert seeds is not None
        return pictures, seeds[:, 0].tolist()

    def statistics(self) -> tuple[int, int]:
        """(pictures, batches) drawn since the server started."""
        statistics: Any = self.grpc.get_inference_statistics("naruto", as_json=True)
        (model,) = statistics["model_stats"]
        return int(model.get("inference_count", 0)), int(model.get("execution_count", 0))


@pytest.fixture(scope="module")
def overflowing(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of another model, `overflow`, whose VAE's pixels are infinite."""
    folder = tmp_path_factory.mktemp("overflowing") / "repository"
    shutil.copytree(repository / "naruto", folder / "overflow")
    config = folder / "overflow" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "naruto"', 'name: "overflow"'))
    overflow_when_decoded(folder / "overflow" / "1" / "model")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, overflowing: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The real server on that repository; skipped, with the reason, where this machine has none."""
    try:
        installed = find_server()
    except ServiceFailed as reason:
        pytest.skip(str(reason))
    ports = Ports(*free_ports(3))
    log = tmp_path_factory.mktemp("log") / "triton.log"
    command = [*installed.command(repository, "127.0.0.1", ports), f"--model-repository={overflowing}"]
    # on a busy machine, threads that spin while they wait for each other take ten times as long
    environment = installed.environment | {"OMP_WAIT_POLICY": "passive"}
    address = f"127.0.0.1:{ports.grpc}"
    with log.open("wb") as file, triton.InferenceServerClient(address) as grpc:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(grpc, process, log, seconds=120)
            yield Client(grpc, address)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:  # all at the same time, else a port might come twice
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def wait_until_ready(
    grpc: triton.InferenceServerClient, process: subprocess.Popen[bytes], log: Path, seconds: float
) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if grpc.is_model_ready("naruto") and grpc.is_model_ready("overflow"):
                return
        except InferenceServerException:
            pass  # it does not listen yet
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
        time.sleep(0.2)


def paint(small_run: tuple[Path, str], repository: Path, job: Job, **changes: object) -> np.ndarray:
    """The picture by the project's own Painter, in full precision and at the size of batch that Triton has."""
    home, run_id = small_run
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(home))
        with open_store(read_settings().database_url) as store:
            recipe = Recipe.model_validate_json(store.recipe_json(run_id))
    section = recipe.generation.model_copy(update={"mixed_precision": "fp32", **changes})
    folder = repository / "naruto" / "1" / "model"
    pipeline = sdxl.load_pipeline(ModelSection(base=str(folder)), "fp32", torch.device("cpu"))
    return np.asarray(Painter(pipeline, section).paint([job])[0])


def test_it_draws_what_the_http_service_draws(small_run: tuple[Path, str], server: Client) -> None:
    """Up to rounding: the service has the adapter beside the weights, in bf16. Seen: 0.5 of 255, another seed 13."""
    home, run_id = small_run
    (drawn,), _ = server.ask(PROMPT=RED, SEED=7)
    with serving(home) as service:
        answer = service.ask(prompt=RED, model=run_id, seed=7).raise_for_status().json()
        other = service.ask(prompt=RED, model=run_id, seed=8).raise_for_status().json()

    def apart(reply: dict[str, Any]) -> float:
        """Mean difference of a colour, of 255."""
        picture = Image.open(io.BytesIO(base64.b64decode(reply["data"][0]["b64_json"])))
        return float(np.abs(np.asarray(picture, dtype=float) - drawn).mean())

    assert apart(answer) < 1.5
    assert apart(other) > 8


def test_it_draws_what_the_painter_draws_in_full_precision(
    small_run: tuple[Path, str], repository: Path, server: Client
):
    (drawn,), (seed,) = server.ask(PROMPT=RED, SEED=7)
    assert np.array_equal(drawn, paint(small_run, repository, Job(RED, 7)))
    assert seed == 7


def test_every_input_has_an_effect(small_run: tuple[Path, str], repository: Path, server: Client):
    (drawn,), _ = server.ask(PROMPT=RED, SEED=7, NEGATIVE_PROMPT="red", STEPS=2, GUIDANCE=3.3, SIZE=[[48, 48]])
    changes = {"negative_prompt": "red", "num_inference_steps": 2, "guidance_scale": 3.3, "resolution": 48}
    assert np.array_equal(drawn, paint(small_run, repository, Job(RED, 7), **changes))
    wide, _ = server.ask(PROMPT=CAT, SIZE=[[64, 48]])
    assert wide.shape == (1, 48, 64, 3)


def test_without_a_seed_each_picture_has_a_random_one_that_is_returned(server: Client):
    (drawn,), (seed,) = server.ask(PROMPT=CAT)
    _, (other,) = server.ask(PROMPT=CAT)
    assert other != seed
    assert np.array_equal(server.ask(PROMPT=CAT, SEED=seed)[0][0], drawn)


def _settled_statistics(server: Client) -> tuple[int, int]:
    """The numbers of pictures and batches, once they stay: the server counts a batch after it has answered."""
    counted, before = server.statistics(), None
    while counted != before:
        time.sleep(0.3)
        counted, before = server.statistics(), counted
    return counted


def test_a_picture_is_the_same_alone_and_in_a_batch_and_requests_share_batches(server: Client):
    requests = [{"PROMPT": RED if seed % 3 else CAT, "SEED": seed, "STEPS": 2 + (seed == 5)} for seed in range(8)]
    alone = [server.ask(**request)[0][0] for request in requests]
    pictures, batches = _settled_statistics(server)
    with ThreadPoolExecutor(8) as clients:
        together = [drawn[0] for drawn, _ in clients.map(lambda request: server.ask(**request), requests)]
    assert all(map(np.array_equal, alone, together))
    pictures_after, batches_after = _settled_statistics(server)
    assert pictures_after - pictures == len(requests)
    assert batches_after - batches < len(requests)


def test_one_request_may_ask_for_several_pictures(server: Client):
    drawn, seeds = server.ask(PROMPT=[RED, CAT], SEED=[7, 8], GUIDANCE=[7.5, 1.0])
    assert seeds == [7, 8]
    assert np.array_equal(drawn[0], server.ask(PROMPT=RED, SEED=7, GUIDANCE=7.5)[0][0])
    assert np.array_equal(drawn[1], server.ask(PROMPT=CAT, SEED=8, GUIDANCE=1.0)[0][0])


BAD = [
    ({"PROMPT": " "}, "PROMPT: must not be empty"),
    ({"PROMPT": "x" * 100_000}, "PROMPT: must have at most 2000 characters"),
    ({"PROMPT": b"\xff"}, "PROMPT: must be UTF-8"),
    ({"NEGATIVE_PROMPT": "x" * 100_000}, "NEGATIVE_PROMPT: must have at most 2000 characters"),
    ({"SEED": -1}, "SEED: must be from 0"),
    ({"STEPS": 0}, "STEPS: must be from 1 to 150"),
    ({"STEPS": 151}, "STEPS: must be from 1 to 150"),
    ({"GUIDANCE": float("nan")}, "GUIDANCE: must be a number from 0 to 30"),
    ({"GUIDANCE": -0.5}, "GUIDANCE: must be a number from 0 to 30"),
    ({"SIZE": [[64, 60]]}, "SIZE: 60 is not a multiple of 8"),
    ({"SIZE": [[8192, 64]]}, "SIZE: must be from 16 to 128"),
    ({"PROMPT": [RED, CAT], "SIZE": [[64, 64], [48, 48]]}, "SIZE: all pictures of a request must have the same size"),
]


@pytest.mark.parametrize(("inputs", "sentence"), BAD)
def test_an_invalid_input_is_named_in_one_sentence(server: Client, inputs: dict[str, Any], sentence: str):
    with pytest.raises(InferenceServerException, match=sentence) as refused:
        server.ask(**{"PROMPT": CAT, **inputs})
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_picture_that_overflows_is_an_error_and_not_black(server: Client):
    with pytest.raises(InferenceServerException, match="the VAE's pixels are not finite numbers in float32"):
        server.ask(model="overflow", PROMPT=CAT, STEPS=1)


def test_it_draws_with_the_projects_own_sampling_code(repository: Path):
    for module in (sampling, text_encoding):
        source = Path(module.__file__)
        assert (repository / "naruto" / "1" / source.name).read_bytes() == source.read_bytes()


def test_a_bad_request_does_not_affect_others_of_its_batch(server: Client):
    expected = server.ask(PROMPT=RED, SEED=7, STEPS=2)[0]

    def ask(steps: int) -> np.ndarray | str:
        try:
            return server.ask(PROMPT=RED, SEED=7, STEPS=steps)[0]
        except InferenceServerException as error:
            return str(error.message())

    pictures, batches = _settled_statistics(server)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, [2, 0] * 4))
    assert all(np.array_equal(answer, expected) for answer in answers[::2])
    assert all("STEPS" in answer for answer in answers[1::2])
    pictures_after, batches_after = server.statistics()
    assert batches_after - batches < len(answers)  # they shared batches
    assert pictures_after > pictures


def test_the_code_in_its_readme_runs(repository: Path, server: Client):
    code = (repository / "README.md").read_text().partition("```python")[2].partition("```")[0]
    assert "127.0.0.1:8001" in code
    names: dict[str, Any] = {}
    exec(code.replace("127.0.0.1:8001", server.address), names)
    expected, _ = server.ask(PROMPT="a naruto anime character with red hair", SEED=7)
    assert np.array_equal(names["picture"], expected[0])
    assert names["seed"] == 7


def test_the_command_prints_its_folder_and_does_not_export_a_damaged_model(
    small_run: tuple[Path, str], repository: Path, naruto: Naruto, tmp_path: Path
):
    home, run_id = small_run
    done = naruto(home, "export", "triton", run_id, str(tmp_path))
    assert done.stdout.strip() == str(tmp_path / run_id), done.stderr
    folders = (tmp_path / run_id, repository)
    written = [{path.relative_to(root) for path in root.rglob("*") if "cache" not in str(path)} for root in folders]
    assert written[0] == written[1]
    shutil.rmtree(tmp_path / run_id)
    weights = next((Layout(home).fused(run_id) / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".aside"))
    try:
        done = naruto(home, "export", "triton", run_id, str(tmp_path))
    finally:
        weights.with_suffix(".aside").rename(weights)
    assert done.returncode != 0
    assert "not the one that was recorded" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_repository_pins_its_requirements_and_says_how_to_start(repository: Path):
    requirements = (repository / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in requirements] == [
        "torch",
        "diffusers",
        "transformers",
        "accelerate",
        "safetensors",
    ]
    assert all(line.partition("==")[2] and "+" not in line for line in requirements)
    config = (repository / "naruto" / "config.pbtxt").read_text()
    assert "max_batch_size: 2\n" in config
    assert "tritonserver --model-repository=." in (repository / "README.md").read_text()
    model = repository / "naruto" / "1" / "model"
    assert json.loads((model / "generation.json").read_text())["new_tokens"] == {}
    assert not [path for path in repository.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]


@pytest.mark.parametrize("address", ["0.0.0.0", "::", ""])
def test_at_another_address_tritons_server_needs_without_keys(address: str):
    command = [sys.executable, "-m", "deployments.triton", "nowhere", "--address", address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "add --without-keys if something else" in done.stderr


def test_without_an_installed_server_the_error_says_where_it_runs(tmp_path: Path):
    with pytest.raises(ServiceFailed, match=r"`make triton` .* Linux .* Python 3.11 or 3.12"):
        find_server(tmp_path)


def test_it_stops_drawing_for_a_client_that_has_gone(server: Client):
    began = time.monotonic()
    server.ask(PROMPT=CAT, SEED=1, STEPS=10)
    seconds = time.monotonic() - began
    prompt, steps = triton.InferInput("PROMPT", [1, 1], "BYTES"), triton.InferInput("STEPS", [1, 1], "INT32")
    prompt.set_data_from_numpy(np.array([[CAT]], dtype=object))
    steps.set_data_from_numpy(np.array([[150]], dtype=np.int32))
    call = server.grpc.async_infer("naruto", [prompt, steps], lambda result, error: None)
    time.sleep(seconds)  # it is being drawn
    call.cancel()
    began = time.monotonic()
    server.ask(PROMPT=CAT, SEED=1, STEPS=1)
    assert time.monotonic() - began < 8 * seconds  # the rest of 150 steps would take 14 times as long
