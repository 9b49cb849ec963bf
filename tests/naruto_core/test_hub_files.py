"""A snapshot in huggingface_hub's cache is what was downloaded, or is refused."""

import hashlib
from pathlib import Path

import pytest

from naruto_core.errors import RecordDamaged
from naruto_core.hub import check_hub_file, check_hub_snapshot

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


def test_a_file_that_was_not_downloaded_is_taken_as_it_is(tmp_path: Path):
    path = tmp_path / ("0" * 64)
    path.write_bytes(b"anything")
    assert check_hub_file(path) == path
