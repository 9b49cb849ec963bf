"""Which runs the service can serve."""

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
        recorded_run(tmp_path, {}, drawn=False) as recorded,
        open_database(f"sqlite:///{tmp_path / 'naruto.db'}").ratings as ratings,
    ):

        def served() -> str:
            return ModelRegistry(recorded.store, ratings, tmp_path, None).spec(recorded.run.id).name

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
