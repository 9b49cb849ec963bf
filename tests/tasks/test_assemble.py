"""The folder that is handed out: its code draws what its pictures show, and nothing in it is of this machine."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from flows.exports import export_diffusers, export_hub, export_kohya
from naruto_core.errors import ModelUnusable, RecordDamaged, StorageFailed
from naruto_core.textual_inversion import FILE
from tests.tasks.recorded_run import PROMPTS, Recorded, recorded_run

LORA = "pytorch_lora_weights.safetensors"
INK = {"name": "ink", "dataset": {"source": "world:naruto?count=9"}, "instance_prompt": "an ink drawing"}
PIVOTAL = {
    "training.text_encoder_lr": 1.0,
    "training.textual_inversion": {"token_abstraction": "person"},
    "styles": [INK | {"token_abstraction": "forest"}],
    "training.clip_skip": 1,
    "generation.clip_skip": 1,
    "training.max_token_length": 150,
    "generation.max_token_length": 150,
}
TWO_STYLES = {"training.adapters": "per-style", "styles": [INK], "fusion.style_scales": {"ink": -0.4}}
ALONE = {"training.textual_inversion": {"token_abstraction": "person", "train_lora": False}}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with recorded_run(tmp_path_factory.mktemp("private-folder"), {"training.text_encoder_lr": 1.0}) as run:
        yield run


@pytest.fixture(scope="module")
def pivotal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with recorded_run(tmp_path_factory.mktemp("pivotal"), PIVOTAL) as run:
        yield run


@pytest.fixture(scope="module")
def two_styles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with recorded_run(tmp_path_factory.mktemp("two-styles"), TWO_STYLES) as run:
        yield run


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB")).astype(int)


def _shown_and_drawn(recorded: Recorded, folder: Path, text: str) -> Sequence[np.ndarray]:
    """The card's pictures of the prompt `text` by base and adapted model, and what the card's code draws for it."""
    card = ModelCard.load(folder / "README.md")
    code = re.search(r"```python\n(.*?)\n```", card.text, re.DOTALL)
    shown = re.search(rf"\| {text} \| 11 \| !\[base\]\((.+?)\) \| !\[adapted\]\((.+?)\) \|", card.text)
    assert code
    assert shown
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(code[1].replace("path/to/my-sdxl", str(recorded.base)), {})  # the only thing a reader has to fill in
    return [_pixels(folder / name) for name in (*shown.groups(), "picture.png")]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("recorded", "a person in the rain"),
        ("pivotal", "a &lt;s0&gt;&lt;s1&gt; in the rain"),
        ("two_styles", "a person in the rain"),
    ],
)
def test_the_cards_own_code_draws_the_picture_that_the_card_shows(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, text: str
):
    run: Recorded = request.getfixturevalue(kind)
    base, adapted, drawn = _shown_and_drawn(run, run.write_bundle(tmp_path / "out"), text)
    assert np.abs(drawn - adapted).max() <= 1
    assert np.abs(drawn - base).max() > 30


def test_diffusers_takes_its_own_file_even_when_it_is_not_told_which(recorded: Recorded, tmp_path: Path):
    folder = recorded.write_bundle(tmp_path / "out")
    taken = StableDiffusionXLPipeline.lora_state_dict(str(folder))
    taken = taken[0] if isinstance(taken, tuple) else taken
    own = load_file(recorded.layout.adapter(recorded.run.id))
    assert {weight.dtype for weight in taken.values()} == {torch.float32}  # the file for ComfyUI is in half precision
    assert len(taken) == len(own)


def test_nothing_that_is_handed_out_names_a_folder_of_this_machine(recorded: Recorded, tmp_path: Path):
    folder = recorded.write_bundle(tmp_path / "out")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).parts[0] for path in files} == {
        "README.md",
        "pytorch_lora_weights.safetensors",
        f"{recorded.run.id}.safetensors",
        "samples",
    }
    assert len(files) == 3 + 2 * len(PROMPTS)
    assert [path for path in files if b"private-folder" in path.read_bytes()] == []
    assert b"my-sdxl" in (folder / f"{recorded.run.id}.safetensors").read_bytes()
    with Image.open(next((folder / "samples").iterdir())) as picture:
        assert '"seed": 11' in picture.text["naruto"]
    assert re.search(
        r"sha256 over its files when this card was written: `[0-9a-f]{64}`", (folder / "README.md").read_text()
    )


def test_the_same_record_is_the_same_bytes_again(recorded: Recorded, tmp_path: Path):
    first, second = recorded.write_bundle(tmp_path / "first"), recorded.write_bundle(tmp_path / "second")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []


def _weights(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}


def test_new_tokens_are_handed_out_whole_for_diffusers_and_by_word_for_comfyui(pivotal: Recorded, tmp_path: Path):
    folder, name = pivotal.write_bundle(tmp_path / "out"), pivotal.run.id
    words = [f"{name}-main_emb.safetensors", f"{name}-ink_emb.safetensors"]
    assert _weights(folder) == {LORA, FILE, f"{name}.safetensors", *words}
    whole, parts = load_file(folder / FILE), [load_file(folder / word) for word in words]
    for key in ("clip_l", "clip_g"):
        assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])
        assert len(parts[0][key]) == 2
    text = (folder / "README.md").read_text()
    assert f"`embedding:{name}-main_emb` for person and `embedding:{name}-ink_emb` for forest" in text
    assert "The prompts of the base, which has no new tokens, have person for &lt;s0&gt;&lt;s1&gt;" in text
    read = {variant: _read_of(folder / name) for variant, name in re.findall(r"!\[(\w+)\]\((.+?)\)", text)[:2]}
    assert "a person in the rain" in read["base"]
    assert "a <s0><s1> in the rain" in read["adapted"]


def _read_of(path: Path) -> str:
    with Image.open(path) as picture:
        return picture.text["naruto"]


def test_each_styles_adapter_is_handed_out_under_its_name(two_styles: Recorded, tmp_path: Path):
    folder, name = two_styles.write_bundle(tmp_path / "out"), two_styles.run.id
    kohya = {style: f"{name}-{style}.safetensors" for style in ("main", "ink")}
    assert _weights(folder) == {f"main/{LORA}", f"ink/{LORA}", *kohya.values()}
    for style, file in kohya.items():
        assert (folder / style / LORA).read_bytes() == two_styles.layout.adapter(two_styles.run.id, style).read_bytes()
        with safe_open(folder / file, framework="pt") as opened:
            assert opened.metadata()["modelspec.title"] == f"{name}-{style}"
            assert opened.metadata()["modelspec.prediction_type"] == "epsilon"  # as the base's own scheduler says
    text = (folder / "README.md").read_text()
    assert f"1.0 for `{kohya['main']}`" in text
    assert f"-0.4 for `{kohya['ink']}`" in text
    assert "2 LoRA adapters, one for each style, of rank 4" in text


@pytest.mark.parametrize(
    ("changes", "files", "reason"),
    [
        ({"training.use_dora": True}, {LORA}, "it is a DoRA"),
        (ALONE, {FILE, "RUN_emb.safetensors"}, "no LoRA was trained, only the embeddings"),
    ],
)
def test_where_comfyui_can_have_no_lora_the_card_says_why_and_an_export_for_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], files: set[str], reason: str
):
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    with recorded_run(tmp_path / "home", changes, drawn=False) as run:
        folder = run.write_bundle(tmp_path / "out")
        assert _weights(folder) == {name.replace("RUN", run.run.id) for name in files}
        card = (folder / "README.md").read_text()
        assert f"There is no LoRA file for ComfyUI: {reason}" in card
        assert ("load_lora_weights" in card) is (LORA in files)
        assert ("ComfyUI/models/embeddings/" in card) is (FILE in files)
        with pytest.raises(ModelUnusable, match=f"has no LoRA for kohya's tools: {reason}"):
            export_kohya(run.run.id, tmp_path / "kohya")
        assert not (tmp_path / "kohya").exists()


def test_an_export_replaces_an_older_one_and_never_a_folder_with_other_files(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NARUTO_HOME", str(recorded.layout.root))
    name, adapter = recorded.run.id, recorded.layout.adapter(recorded.run.id)
    folder = export_diffusers(name, tmp_path)
    assert export_diffusers(name, tmp_path) == folder
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StorageFailed, match=r"first notes\.txt"):
        export_hub(name, tmp_path)
    assert (folder / "notes.txt").read_text() == "mine"
    with pytest.raises(StorageFailed, match="files that this export does not write"):
        export_hub(name, recorded.layout.root / "runs")
    assert adapter.is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text("mine")
    with pytest.raises(StorageFailed, match="a file has that name"):
        export_hub(name, tmp_path / "other")
    assert [path.read_text() for path in (tmp_path / "other").iterdir()] == ["mine"]


def test_a_folder_for_diffusers_alone_says_nothing_of_comfyui(pivotal: Recorded, tmp_path: Path):
    folder = pivotal.write_bundle(tmp_path / "out", for_comfyui=False)
    assert _weights(folder) == {LORA, FILE}
    assert "ComfyUI/" not in (folder / "README.md").read_text()


def _refused_once_altered(run: Recorded, recorded: str, match: str, out: Path) -> None:
    """With one byte changed in the file behind `recorded`, nothing is handed out."""
    path = run.layout.absolute(recorded)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    try:
        with pytest.raises(RecordDamaged, match=match):
            run.write_bundle(out / "out")
    finally:
        path.write_bytes(whole)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(("kind", "number"), [("pivotal", 0), ("pivotal", 1), ("two_styles", 0), ("two_styles", 1)])
def test_every_adapter_file_must_be_the_recorded_one(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, number: int
):
    run: Recorded = request.getfixturevalue(kind)
    altered = run.adapters[number].path
    _refused_once_altered(run, altered, r"adapter .* is not the one that was recorded", tmp_path)


def test_a_picture_that_is_not_the_recorded_one_is_not_handed_out(recorded: Recorded, tmp_path: Path):
    altered = recorded.store.samples(recorded.run.id)[0].path
    _refused_once_altered(recorded, altered, r"picture .* is not the one that was recorded", tmp_path)
