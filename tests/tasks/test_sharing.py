"""Files shared by a bucket that speaks S3: another machine goes on, and people are told what is wrong with a bucket."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moto.core import set_initial_no_auth_action_count
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from dashboard.queries import datasets
from dashboard.queries.thumbnails import thumbnail
from deployments.service.model_registry import ModelRegistry
from flows.exports import export_fused, export_kohya
from naruto_core import artifact_store
from naruto_core.artifact_store import ArtifactStore, StoredFile
from naruto_core.artifacts import Layout, is_intact, is_intact_folder, sha256_bytes, write_atomically
from naruto_core.dataset.shared_versions import fetch_rows
from naruto_core.dataset.versions import read_picture, read_pictures
from naruto_core.domain import PromptSuite, Score, Variant
from naruto_core.errors import RecipeInvalid, RecordDamaged, ServiceFailed
from naruto_core.scoring.features import pixel_extractor
from naruto_core.settings import read_settings
from naruto_core.store import verification
from naruto_core.store.database import open_database
from naruto_core.store.verification import adapter_fault, verify
from tasks import features
from tasks.context import OpenRun, task_context
from tasks.features import sample_features
from tasks.fuse import fuse
from tasks.generate import generate
from tasks.ingest import ingest
from tests.s3_bucket import objects, serving_bucket
from tests.tasks.recorded_run import PROMPTS, recorded_run


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The URL of a prefix in an empty bucket."""
    with serving_bucket() as url:
        yield url


def test_a_machine_with_an_empty_home_goes_on_with_a_run_of_another(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("NARUTO_STORE", address)
    monkeypatch.setenv("NARUTO_DATABASE", f"sqlite:///{first / 'naruto.db'}")
    monkeypatch.setenv("NARUTO_HOME", str(first))
    changes = {"dataset.source": "world:naruto?count=12&seed=5", "dataset.hold_out": 4}
    suite = PromptSuite("rain-v1", "f" * 64, PROMPTS, (11, 22))
    with recorded_run(first, changes, drawn=False) as recorded:
        run_id = recorded.run.id
        version = ingest.fn(recorded.recipe.dataset)
        opened = OpenRun(recorded.run, recorded.recipe, suite, (version,))
        fused = fuse.fn(opened, recorded.adapters)
        assert generate.fn(opened, recorded.adapters, fused) == 8
        samples, pictures = recorded.store.samples(run_id), read_pictures(recorded.layout, version)
    with task_context() as context:
        embedded = sample_features(context, samples, pixel_extractor(), 4, "score")
    stored = objects(address)
    assert len([name for name in stored if "/embeddings/" in name]) == 1
    lost = [sample for sample in samples if sample.variant is Variant.ADAPTED][:2]
    for sample in lost:  # their machine died before they were published
        S3FileSystem().rm(f"{address}/objects/{sample.sha256[:2]}/{sample.sha256}")

    monkeypatch.setenv("NARUTO_HOME", str(second))
    assert generate.fn(opened, recorded.adapters, fused) == 8
    with task_context() as context:
        assert [sample.sha256 for sample in context.store.samples(run_id)] == [sample.sha256 for sample in samples]
        assert all(is_intact(context.layout.absolute(sample.path), sample.sha256) for sample in samples)
        assert read_pictures(context.layout, version) == pictures
        assert all(read_picture(context.layout, picture) for picture in pictures)
        assert is_intact_folder(context.layout.absolute(fused.path), fused.sha256)
        monkeypatch.setattr(features, "embed_batches", None)  # nothing is embedded again
        again = sample_features(context, samples, pixel_extractor(), 4, "score")
        assert np.array_equal(again.features, embedded.features)
    assert ingest.fn(recorded.recipe.dataset) == version, "two machines record the same version of a dataset"
    assert objects(address) == stored, "what was drawn here was published, and nothing twice"
    assert len(stored) > len(samples) + len(pictures)


def test_a_machine_without_the_files_of_a_run_serves_exports_and_shows_it_and_verify_misses_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("NARUTO_STORE", address)
    monkeypatch.setenv("NARUTO_DATABASE", f"sqlite:///{first / 'naruto.db'}")
    monkeypatch.setenv("NARUTO_HOME", str(first))
    suite = PromptSuite("rain-v1", "f" * 64, PROMPTS, (11, 22))
    changes = {"dataset.source": "world:naruto?count=12&seed=6", "dataset.hold_out": 4}
    with recorded_run(first, changes, drawn=False) as recorded:
        run_id = recorded.run.id
        version = ingest.fn(recorded.recipe.dataset)
        opened = OpenRun(recorded.run, recorded.recipe, suite, (version,))
        generate.fn(opened, recorded.adapters, fuse.fn(opened, recorded.adapters))
        recorded.store.finish_run(run_id, datetime.now(UTC))
        samples, layout = recorded.store.samples(run_id), Layout(second, address)

        monkeypatch.setenv("NARUTO_HOME", str(second))
        pictures = read_pictures(recorded.layout, version)
        expected = {"missing table of dataset world:naruto?count=12&seed=6"} | {
            f"missing {kind}" for kind in ("adapter", "fused model", "recipe", "contact sheet")
        }
        alone = {f"{problem.kind} {problem.what}" for problem in verify(recorded.store, Layout(second), pictures)}
        assert expected <= alone, "without a bucket they are missing"
        shared = verify(recorded.store, layout, pictures)
        assert [problem.path for problem in shared] == ["datasets/w"], "the record's own, which has no files anywhere"
        with open_database(read_settings().database_url) as database:
            assert ModelRegistry(database.runs, database.ratings, layout, None).spec(run_id).name == run_id
        thumbnails = [thumbnail(sample.sha256, "256") for sample in samples]
        assert all(path and path.is_relative_to(second) for path in thumbnails)
        assert (export_fused(run_id, tmp_path / "fused") / "model_index.json").is_file()
        assert export_kohya(run_id, tmp_path / "kohya")
        assert fetch_rows(layout, version)
        assert not (second / "pictures").exists(), "rows alone"
        assert len(datasets.pictures(version)) == 12
        shutil.rmtree(second / "runs")
        recorded.store.add_scores([Score(run_id, "mmd", Variant.ADAPTED, 1.0, 0.5, 1.5, 8, "judge", "1", version.id)])

        def fetch_while_another_writes(*file: Any) -> None:
            if not (second / "runs").exists():  # it would wait for 30 s for a transaction, and then fail
                recorded.store.add_note(run_id, "written meanwhile", datetime.now(UTC))
            artifact_store.fetch_file(*file)

        monkeypatch.setattr(verification, "fetch_file", fetch_while_another_writes)
        with open_database(read_settings().database_url) as database:
            promotion = database.ratings.promote("champion", run_id, "lea", "good", datetime.now(UTC), {}, layout)
        assert promotion.run_id == run_id
        assert [note.text for note in recorded.store.notes(run_id)] == ["written meanwhile"]
        monkeypatch.undo()
        shutil.rmtree(second / "runs")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
        monkeypatch.setattr(artifact_store, "SHORT_PATIENCE", 0.1)
        S3FileSystem.clear_instance_cache()
        fault = adapter_fault(layout, recorded.store.adapters(run_id)[0])
        assert "is not on this machine, and cannot be fetched: " in fault, fault
    S3FileSystem.clear_instance_cache()


def test_what_a_bucket_gives_back_is_compared_with_its_name(address: str, tmp_path: Path) -> None:
    bucket, sha256 = ArtifactStore(address), sha256_bytes(b"picture")
    path = tmp_path / "a" / "picture.png"
    write_atomically(path, b"picture")
    assert bucket.publish([StoredFile(path, sha256)]) == 1
    assert bucket.publish([StoredFile(path, sha256)]) == 0
    assert bucket.publish([StoredFile(path, sha256_bytes(b"other"))]) == 0, "a damaged file is not published"
    other = tmp_path / "b" / "picture.png"
    assert bucket.fetch([StoredFile(other, sha256), StoredFile(tmp_path / "c", sha256_bytes(b"unknown"))]) == 1
    assert other.read_bytes() == b"picture"
    S3FileSystem().pipe_file(f"{address}/objects/{sha256[:2]}/{sha256}", b"changed")
    with pytest.raises(RecordDamaged, match=f"{sha256} is damaged: delete it from the bucket"):
        bucket.fetch([StoredFile(tmp_path / "d", sha256)])
    assert not (tmp_path / "d").exists()


def test_a_bucket_that_cannot_be_used_is_named_in_one_sentence(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ArtifactStore(address).check()
    with pytest.raises(ServiceFailed, match="there is no bucket nowhere: create it"):
        ArtifactStore("s3://nowhere/prefix").check()
    with pytest.raises(ServiceFailed, match="there is no bucket nowhere: create it"):
        ArtifactStore("s3://nowhere/prefix").read("name")
    monkeypatch.setenv("NARUTO_STORE", address)
    monkeypatch.delenv("NARUTO_DATABASE", raising=False)
    with pytest.raises(RecipeInvalid, match="needs a database that all machines share: set NARUTO_DATABASE"):
        read_settings()
    monkeypatch.setenv("NARUTO_STORE", "ftp://somewhere")
    with pytest.raises(RecipeInvalid, match="NARUTO_STORE"):
        read_settings()


def test_a_bucket_without_rights_is_named_in_one_sentence(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @set_initial_no_auth_action_count(0)  # moto then knows no key
    def check_with_an_unknown_key() -> None:
        ArtifactStore(address).check()

    sentence = f"no access to {address}: .*; set AWS_ACCESS_KEY_ID"
    with pytest.raises(ServiceFailed, match=sentence):
        check_with_an_unknown_key()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(ServiceFailed, match=sentence):
        ArtifactStore(address).check()
    S3FileSystem.clear_instance_cache()


def test_a_bucket_may_be_away_for_a_while(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port where nobody listens, and then a second server, which has the first one's buckets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(artifact_store, "_PAUSE", 0.2)
    with pytest.raises(ServiceFailed, match="did not answer for 1 s"):
        ArtifactStore(address, patience=1.0).check()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)

    def come_back() -> None:
        time.sleep(1)
        server.start()

    starter = threading.Thread(target=come_back)
    starter.start()
    path = tmp_path / "picture.png"
    write_atomically(path, b"later")
    try:
        assert ArtifactStore(address, 60.0).publish([StoredFile(path, sha256_bytes(b"later"))]) == 1
    finally:
        starter.join()
        server.stop()
        S3FileSystem.clear_instance_cache()
