"""A snapshot in huggingface_hub's cache is what was downloaded, or is refused."""

import hashlib
from pathlib import Path

import pytest

from naruto_core.errors import ModelUnusable, RecordDamaged
from naruto_core.hub import check_hub_file, check_hub_snapshot
from tasks.import_lora import find_lora
from tests.hub_downloads import downloads

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _download(cache: Path, files: dict[str, bytes]) -> Path:
    """`files` as huggingface_hub keeps them."""
    repository = cache / "models--me--tiny"
    for name, data in files.items():
        digest = hashlib.sha256(data).hexdigest() if name.endswith("safetensors") else "5" * 40
        blob, link = repository / "blobs" / digest, repository / "snapshots" / COMMIT / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(blob)
    return repository


def test_a_weight_file_that_changed_since_its_download_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = _download(tmp_path, {"config.json": b"{}", "unet/model.safetensors": b"weights"})
    check_hub_snapshot("me/tiny", COMMIT, "config.json")
    (blob,) = (path for path in (repository / "blobs").iterdir() if len(path.name) == 64)
    blob.write_bytes(b"Weights, changed")
    with pytest.raises(RecordDamaged, match=rf"model\.safetensors is damaged: delete {blob}, and the same command"):
        check_hub_snapshot("me/tiny", COMMIT, "config.json")
    check_hub_snapshot("me/other", COMMIT, "config.json")  # not in the cache: there is nothing to check


def test_a_lora_of_the_hub_is_downloaded_at_a_commit_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "ink.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with downloads(tmp_path / "hub", "me/lora", COMMIT) as (address, _):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        found = find_lora(f"me/lora/ink.safetensors@{COMMIT}")
        assert found.path.read_bytes() == b"weights"
        assert found.name == f"me/lora/ink.safetensors@{COMMIT}"
        with pytest.raises(ModelUnusable, match=r"cannot download me/lora/other\.safetensors@0123"):
            find_lora(f"me/lora/other.safetensors@{COMMIT}")
    with pytest.raises(ModelUnusable, match="me/lora@main: give a commit hash"):
        find_lora("me/lora@main")


def test_a_file_that_was_not_downloaded_is_taken_as_it_is(tmp_path: Path):
    path = tmp_path / ("0" * 64)
    path.write_bytes(b"anything")
    assert check_hub_file(path) == path
