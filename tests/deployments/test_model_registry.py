"""Which runs the service can serve."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from serving import two_runs

from deployments.service.errors import ApiError
from deployments.service.model_registry import ModelRegistry
from flows.exports import export_endpoint, export_triton
from naruto_core.artifacts import Layout, sha256_file, sha256_folder
from naruto_core.domain import Adapter, FusedModel
from naruto_core.errors import ModelUnusable, RecordDamaged
from naruto_core.store.database import open_database
from naruto_core.store.promotions import CHAMPION
from tests.tasks.recorded_run import recorded_run


def test_a_run_that_is_not_done_or_whose_weights_are_not_numbers_is_not_served(tmp_path: Path) -> None:
    with (
        recorded_run(tmp_path, {}, drawn=False) as recorded,
        open_database(f"sqlite:///{tmp_path / 'naruto.db'}").ratings as ratings,
    ):

        def served() -> str:
            return ModelRegistry(recorded.store, ratings, Layout(tmp_path), None).spec(recorded.run.id).name

        recorded.store.fail_run(recorded.run.id, "fuse: not numbers", datetime.now(UTC))
        with pytest.raises(ApiError, match="no finished run"):
            served()
        recorded.store.finish_run(recorded.run.id, datetime.now(UTC))
        assert served() == recorded.run.id
        path = recorded.layout.adapter(recorded.run.id)
        tensors = load_file(path)
        next(iter(tensors.values()))[...] = np.nan
        save_file(tensors, path)
        with pytest.raises(RecordDamaged, match=r"cannot be served: its file .* is not the one that was recorded"):
            served()
        relative = recorded.layout.relative(path)
        recorded.store.add_adapters([Adapter(recorded.run.id, relative, sha256_file(path), 4, 10)])
        with pytest.raises(RecordDamaged, match=r"cannot be served: its file .* has weights that are not numbers"):
            served()


def test_a_run_is_served_whatever_is_wrong_with_the_champion_and_until_it_is_deleted(tmp_path: Path) -> None:
    with two_runs(tmp_path) as runs, open_database(f"sqlite:///{tmp_path / 'naruto.db'}") as database:
        layout, now = Layout(tmp_path), datetime.now(UTC)
        database.ratings.promote(CHAMPION, runs.first, "Lea", "better hands", now, {}, layout)
        layout.adapter(runs.first).write_bytes(b"damaged")
        registry = ModelRegistry(database.runs, database.ratings, layout, None)
        with pytest.raises(RecordDamaged):
            registry.spec(CHAMPION)
        assert registry.spec(runs.second).name == runs.second
        database.deletion.delete_run(runs.second, now, layout)
        with pytest.raises(ApiError, match="no such model"):
            registry.spec(runs.second)


def test_a_run_that_draws_with_a_refiner_is_neither_served_nor_exported_for_programs_that_load_none(
    tmp_path: Path,
) -> None:
    with (
        recorded_run(tmp_path, {"generation.refiner": {"base": "a-refiner"}}, drawn=False) as recorded,
        open_database(f"sqlite:///{tmp_path / 'naruto.db'}").ratings as ratings,
    ):
        recorded.store.finish_run(recorded.run.id, datetime.now(UTC))
        with pytest.raises(ApiError, match="draws with a refiner, and this service loads none"):
            ModelRegistry(recorded.store, ratings, Layout(tmp_path), None).spec(recorded.run.id)
        fused = recorded.layout.fused(recorded.run.id)
        shutil.copytree(recorded.base, fused)
        relative = recorded.layout.relative(fused)
        recorded.store.add_fused(FusedModel(recorded.run.id, relative, sha256_folder(fused), 1.0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NARUTO_HOME", str(tmp_path))
            for export in (export_endpoint, export_triton):
                with pytest.raises(ModelUnusable, match="this run draws with a refiner"):
                    export(recorded.run.id, tmp_path / "exported")
        assert [*(tmp_path / "exported").iterdir()] == []
