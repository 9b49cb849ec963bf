"""Handing a finished run out: to a folder, and to a model hub on this machine."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from PIL import Image

from naruto_core.errors import ServiceFailed
from naruto_core.recipe_sections import PublishSection
from tasks.context import recorded_run, task_context
from tasks.publish import publish
from tests.flows.conftest import Naruto
from tests.model_hub import TOKEN, ModelHub, Trouble

PUSH = ("--set", "publish.push_to_hub=true", "--set", "publish.hub_model_id=me/lora")


@pytest.fixture
def at_the_hub(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")  # as a file ends
    return hub


def _publish(home: Path, run_id: str) -> str:
    with task_context() as context:
        assert context.settings.root == home
        opened, adapters = recorded_run(context, run_id), context.store.adapters(run_id)
    assert adapters
    section = PublishSection(push_to_hub=True, hub_model_id="me/lora")
    return publish.fn(replace(opened, recipe=opened.recipe.model_copy(update={"publish": section})), adapters)


def test_what_is_pushed_is_what_the_export_shows_beforehand(
    small_run: tuple[Path, str], naruto: Naruto, at_the_hub: ModelHub, tmp_path: Path
):
    home, run_id = small_run
    shown = naruto(home, "export", "hub", run_id, str(tmp_path))
    assert shown.stdout.strip() == str(tmp_path / run_id)
    assert at_the_hub.requests == []
    assert _publish(home, run_id) == f"{at_the_hub.address}/me/lora"
    files = [path for path in (tmp_path / run_id).rglob("*") if path.is_file()]
    assert at_the_hub.files == {path.relative_to(tmp_path / run_id).as_posix(): path.read_bytes() for path in files}
    assert len(files) == 3 + 3 * 2  # card, two files of weights, three prompts by base and adapted
    assert (at_the_hub.private, len(at_the_hub.commits), list(at_the_hub.tags)) == (True, 1, [run_id])
    card = ModelCard(at_the_hub.files["README.md"].decode())
    assert "| mmd (lower is better), against 12 held-out pictures |" in card.text
    assert card.data.license == "apache-2.0"


def test_a_push_that_failed_is_a_sentence_and_goes_on_later(
    small_run: tuple[Path, str], at_the_hub: ModelHub, naruto: Naruto, monkeypatch: pytest.MonkeyPatch
):
    home, run_id = small_run
    monkeypatch.setenv("NARUTO_HOME", str(home))
    at_the_hub.troubles.append(Trouble("/commit/main", 403))
    with pytest.raises(ServiceFailed, match="may not write there"):
        _publish(home, run_id)
    sent = list(at_the_hub.received)
    _publish(home, run_id)
    assert at_the_hub.received == sent
    assert len(at_the_hub.commits) == 1
    assert [path for path in home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()] == []
    assert "every recorded file is there" in naruto(home, "verify").stdout


@pytest.mark.parametrize(
    ("token", "name", "sentence"),
    [
        ("hf_wrong", "me/lora", "does not accept the token in HF_TOKEN"),
        (TOKEN, "your-name/lora", "belongs to me, who cannot write to your-name/lora"),
        ("", "me/lora", "HF_TOKEN is not set"),
    ],
)
def test_a_push_that_would_be_refused_is_refused_before_anything_else(
    at_the_hub: ModelHub,
    naruto: Naruto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    name: str,
    sentence: str,
):
    monkeypatch.setenv("HF_TOKEN", token)
    done = naruto(tmp_path, "run", *PUSH[:-1], f"publish.hub_model_id={name}")
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("naruto: ")]
    assert sentence in told
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not token or token not in done.stderr
    assert not (tmp_path / "pictures").exists()


def test_the_card_of_a_diffusers_export_runs_as_it_stands(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home, run_id = small_run
    done = naruto(home, "export", "diffusers", run_id, str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / run_id
    text = (folder / "README.md").read_text()
    assert {path.name for path in folder.iterdir()} == {"README.md", "pytorch_lora_weights.safetensors", "samples"}
    code = re.search(r"```python\n(.*?)\n```", text, re.DOTALL)
    adapted = re.search(r"!\[adapted\]\((.+?)\)", text)
    assert code
    assert adapted
    monkeypatch.chdir(folder)
    exec(code[1], {})
    with Image.open("picture.png") as drawn, Image.open(adapted[1]) as shown:
        difference = np.abs(np.array(drawn.convert("RGB")).astype(int) - np.array(shown).astype(int))
    assert difference.mean() < 4  # of 255: the run mixes precisions, the code draws in half precision throughout
