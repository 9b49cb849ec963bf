"""A small run of the real flow, once, and the means to start the real command in a process of its own."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from naruto_core.recipe_training import ATTENTION
from tests.preloaded import Preloaded, preloaded
from tests.tiny_sdxl import write_tiny_sdxl

# The whole job in seconds: a few pictures, a few steps, two prompts; every code path is the real one.
SMALL = {
    "dataset.source": "world:naruto?count=40&seed=5",
    "dataset.hold_out": 12,
    "training.resolution": 64,  # half the recipe's, a quarter of the work
    "generation.resolution": 64,
    "training.lora_layers": list(ATTENTION),  # the matrices of the attention, not the convolutions too
    "training.rank": 16,
    "training.max_train_steps": 12,
    "training.train_batch_size": 4,
    "training.validation.validation_steps": 6,
    "training.validation.num_validation_images": 4,
    "training.prior.num_class_images": 4,
    "training.prior.class_batch_size": 2,
    "generation.prompts": 3,
    "generation.seeds": 2,
    "generation.num_inference_steps": 3,
    "generation.scheduler": "ddim",
    "generation.batch_size": 2,
    "scoring.batch_size": 2,
    "scoring.resamples": 200,
}
# the same on the base of `tests.tiny_sdxl`, whose pictures show nothing
TINY = SMALL | {
    "dataset.source": "world:naruto?count=20&seed=5",
    "dataset.hold_out": 8,
    "training.resolution": 16,
    "training.rank": 4,
    "training.max_train_steps": 2,
    "training.train_batch_size": 2,
    "training.optimizer": "adamw",
    "training.learning_rate": 0.01,
    "training.validation": None,
    "training.previews": {"preview_steps": 1, "prompts": 1},
    "training.mixed_precision": "fp32",
    "generation.mixed_precision": "fp32",
    "generation.resolution": 16,
    "generation.prompts": 6,
    "generation.seeds": 1,
    "generation.num_inference_steps": 2,
    "fusion.check_pictures": 0,
    "scoring.attribute_reader": None,
    "scoring.primary": ["mmd", "clip-content"],
}


def flags(changes: dict[str, object]) -> list[str]:
    """`changes` as --set options of the naruto command."""
    return [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]


def overflow_when_decoded(model: Path) -> None:
    """Make the VAE in the folder `model` one whose pixels are infinite."""
    path = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["decoder.conv_out.bias"] += float("inf")
    save_file(weights, path, {"format": "pt"})


@pytest.fixture(scope="session")
def environment(prefect_server: None) -> dict[str, str]:
    """For commands started by tests: the session's Prefect server, quick checkpoints."""
    from prefect.settings import PREFECT_API_URL

    return os.environ | {
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_PLUGINS_ENABLED": "false",
        "NARUTO_CHECKPOINT_SECONDS": "0.05",
        "NARUTO_TRACKERS": "tensorboard",
    }


@pytest.fixture(scope="session")
def programs(environment: dict[str, str]) -> Iterator[Preloaded]:
    """What starts the command in a process of its own, without the seconds that imports take."""
    quiet = {f"{library}_VERBOSITY": "error" for library in ("DIFFUSERS", "TRANSFORMERS")}  # as the command says
    pipeline = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
    modules = (
        "flows.cli",
        "flows.train_naruto",
        "flows.watch",
        "open_clip",
        "peft",
        "torchmetrics",
        "pandas",
        pipeline,
    )
    with preloaded(modules, environment | quiet | {"PREFECT_LOGGING_LEVEL": "CRITICAL"}) as opened:
        yield opened


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Naruto = Callable[..., Ended]


def command_in_process(
    name: str, main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Naruto:
    """The command `name` with NARUTO_HOME set, in this process: importing torch for each would take minutes."""

    def run(home: Path, *arguments: str) -> Ended:
        monkeypatch.setenv("NARUTO_HOME", str(home))
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        printed = capfd.readouterr()
        return Ended(int(left.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def naruto(prefect_server: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Naruto:
    """The `naruto` command with NARUTO_HOME set, in this process: importing torch for each would take minutes."""
    from flows.cli import main

    return command_in_process("naruto", main, monkeypatch, capfd)


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file of two training steps of two micro-steps each, beside its base model."""
    from flows.profiles import choose_recipe

    folder = tmp_path_factory.mktemp("tiny")
    changes = TINY | {"model.base": str(write_tiny_sdxl(folder / "base")), "training.gradient_accumulation_steps": 2}
    tree = choose_recipe("mini", None, changes).model_dump(mode="json", exclude={"imported"})
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_run(prefect_server: None, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(NARUTO_HOME, run id) of one undisturbed run of `tiny_recipe`, made in this process."""
    from flows.train_naruto import train_naruto

    home = tmp_path_factory.mktemp("tiny-home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NARUTO_DATABASE", "NARUTO_STORE"):
            patch.delenv(name, raising=False)
        patch.setenv("NARUTO_HOME", str(home))
        run_id = train_naruto(str(tiny_recipe))
    return home, run_id


@pytest.fixture(scope="session")
def small_run(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(NARUTO_HOME, run id) of one undisturbed small run, made in this process."""
    from flows.train_naruto import train_naruto

    home = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(home))
        run_id = train_naruto("mini", None, SMALL)
    return home, run_id
