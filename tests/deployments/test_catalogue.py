"""Which runs the service draws with."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from deployments.service.errors import ApiError
from deployments.service.model_registry import ModelRegistry
from naruto_core.artifacts import sha256_file
from naruto_core.domain import Adapter
from naruto_core.errors import RecordDamaged
from naruto_core.store.database import open_database
from tests.tasks.recorded_run import recorded_run


def test_a_run_that_is_not_done_or_whose_weights_are_not_numbers_is_not_served(tmp_path: Path) -> None:
    with (
        recorded_run(tmp_path, {}, drawn=False) as made,
        open_database(f"sqlite:///{tmp_path / 'naruto.db'}").ratings as ratings,
    ):

        def look() -> str:
            return ModelRegistry(made.store, ratings, tmp_path, None).look(made.run.id).name

        made.store.fail_run(made.run.id, "fuse: not numbers", datetime.now(UTC))
        with pytest.raises(ApiError, match="no finished run"):
            look()
        made.store.finish_run(made.run.id, datetime.now(UTC))
        assert look() == made.run.id
        path = made.layout.adapter(made.run.id)
        tensors = load_file(path)
        next(iter(tensors.values()))[...] = np.nan
        save_file(tensors, path)
        with pytest.raises(RecordDamaged, match=r"cannot be served: its file .* is not the one that was recorded"):
            look()
        made.store.add_adapters([Adapter(made.run.id, made.layout.relative(path), sha256_file(path), 4, 10)])
        with pytest.raises(RecordDamaged, match=r"cannot be served: its file .* has weights that are not numbers"):
            look()
