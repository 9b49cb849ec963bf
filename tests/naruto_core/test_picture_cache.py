"""The base model draws a picture once: it is found again by all that it depends on, and by nothing else."""

import errno
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from PIL import Image

from naruto_core.artifacts import link_or_copy
from naruto_core.generation import Job, Painter
from naruto_core.picture_cache import PictureCache
from naruto_core.picture_file import read_facts
from naruto_core.recipe_sections import GenerationSection, ModelSection
from naruto_core.sdxl import load_pipeline
from tests.loaded_models import counting_models
from tests.naruto_core.conftest import CPU
from tests.tiny_sdxl import write_tiny_sdxl

SECTION = GenerationSection(
    suite="konoha-v1", resolution=32, num_inference_steps=1, guidance_scale=2.0, batch_size=3, mixed_precision="fp32"
)
JOBS = [Job("a person with red hair", 1), Job("a person with red hair", 2), Job("a forest", 1)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSection:
    return ModelSection(base=str(write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny")))


@pytest.fixture(scope="module")
def drawn(tiny: ModelSection, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Job, Path]]:
    """A cache folder, and the files of JOBS in it."""
    folder = tmp_path_factory.mktemp("cache")
    (files,) = PictureCache(folder, tiny, SECTION, CPU).draw(JOBS)
    return folder, files


def test_a_drawn_picture_is_found_by_another_run_and_is_the_painters(tiny: ModelSection, drawn):
    folder, files = drawn
    cache = PictureCache(folder, tiny, SECTION, CPU)
    with counting_models() as loads:
        assert cache.find(JOBS) == files
        assert list(cache.draw([])) == []
    assert loads == []  # nothing to draw: no model
    for job, picture in zip(JOBS, Painter(load_pipeline(tiny, "fp32", CPU), SECTION).paint(JOBS), strict=True):
        with Image.open(files[job]) as stored:
            assert stored.tobytes() == picture.tobytes()
            facts = read_facts(stored)
        assert (facts["prompt"], facts["seed"], facts["batch_size"]) == (job.text, job.seed, 4)
        assert facts.keys().isdisjoint({"run", "suite", "variants", "prompts", "seeds"})


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        ({"suite": "other", "variants": ("base",), "prompts": 2, "seeds": 1}, True),
        ({"batch_size": 4}, True),  # 3 pictures are padded to 4: the same kernels, the same bytes
        ({"batch_size": 2}, False),
        ({"resolution": 40}, False),
        ({"num_inference_steps": 2}, False),
        ({"guidance_scale": 2.5}, False),
        ({"negative_prompt": "low quality"}, False),
        ({"scheduler": "euler"}, False),
        ({"clip_skip": 1}, False),
    ],
)
def test_a_picture_is_found_by_what_changes_it(tiny: ModelSection, drawn, changes: dict[str, Any], is_found: bool):
    folder, files = drawn
    found = PictureCache(folder, tiny, SECTION.model_copy(update=changes), CPU).find(JOBS)
    assert found == (files if is_found else {})


def test_another_model_seed_text_or_device_is_another_picture(tiny: ModelSection, drawn, tmp_path: Path):
    folder, _ = drawn
    other = write_tiny_sdxl(tmp_path / "other")
    (other / "scheduler" / "scheduler_config.json").write_text("{}")
    for model, device in ((ModelSection(base=str(other)), CPU), (tiny, torch.device("cuda"))):
        assert PictureCache(folder, model, SECTION, device).find(JOBS) == {}
    assert PictureCache(folder, tiny, SECTION, CPU).find([Job("a forest", 2), Job("a tree", 1)]) == {}


def test_damaged_files_are_drawn_again_with_the_same_bytes_and_two_writers_leave_one_file(
    tiny: ModelSection, tmp_path: Path
):
    cache = PictureCache(tmp_path, tiny, SECTION, CPU)
    (files,) = cache.draw(JOBS)
    (second,) = cache.draw(JOBS)  # as another process that found nothing
    assert second == files
    whole = {path: path.read_bytes() for path in files.values()}
    assert sorted(tmp_path.rglob("*.png")) == sorted(whole)
    flipped, cut, gone = whole
    flipped.write_bytes(whole[flipped][:-1] + b"x")
    cut.write_bytes(b"")
    gone.unlink()
    assert cache.find(JOBS) == {}
    (again,) = cache.draw(JOBS)
    assert again == cache.find(JOBS) == files
    assert {path: path.read_bytes() for path in files.values()} == whole


@pytest.mark.parametrize("links", [True, False])
def test_a_run_keeps_its_picture_when_the_cache_is_written_or_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
):
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EXDEV, "another file system")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    source, path = tmp_path / "cache" / "a.png", tmp_path / "run" / "b.png"
    source.parent.mkdir()
    source.write_bytes(b"drawn")
    for _ in range(2):  # again: the name exists, and is the same file already
        link_or_copy(source, path)
        assert path.read_bytes() == b"drawn"
        assert path.samefile(source) == links
        assert [child.name for child in path.parent.iterdir()] == ["b.png"]
    source.unlink()
    assert path.read_bytes() == b"drawn"
    with pytest.raises(FileNotFoundError):
        link_or_copy(source, path)
    assert path.read_bytes() == b"drawn"
