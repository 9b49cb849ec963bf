"""The fused model is compared with the adapted model's samples, and a wrong one is found."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from naruto_core.domain import Finding, PromptSuite
from naruto_core.scoring.findings import FUSED_LIMIT, FUSED_MODEL
from tasks.context import OpenRun
from tasks.fuse import check_fused, fuse
from tests.tasks.recorded_run import PROMPTS, Recorded, recorded_run


def _check(recorded: Recorded, **fusion: float) -> list[Finding]:
    """Fuse, where there is no fused model, and check; the findings of the run about it."""
    recipe = recorded.recipe.model_copy(update={"fusion": recorded.recipe.fusion.model_copy(update=fusion)})
    dataset = recorded.store.find_dataset(recorded.run.dataset_id)
    assert dataset
    opened = OpenRun(recorded.run, recipe, PromptSuite("rain-v1", "f" * 64, PROMPTS, (11, 22)), (dataset,))
    check_fused.fn(opened, fuse.fn(opened, recorded.adapters))
    return [f for f in recorded.store.findings(recorded.run.id) if f.name == FUSED_MODEL]


def test_a_fused_model_that_draws_other_pictures_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path))
    with recorded_run(tmp_path, {}) as recorded:
        assert _check(recorded, check_pictures=0) == []
        (alike,) = _check(recorded)
        assert (alike.warning, alike.figures["pictures"]) == (False, 2)
        assert alike.figures["largest"] <= 2  # fp32 on a CPU
        recorded.store.add_finding(replace(alike, sentence="kept"))
        (kept,) = _check(recorded)  # the same model: no second check
        assert kept.sentence == "kept"
        shutil.rmtree(recorded.layout.fused(recorded.run.id))
        (other,) = _check(recorded, lora_scale=0, check_pictures=1)  # the finding was deleted with its model
        assert (other.warning, other.figures["pictures"]) == (True, 1)
        assert other.figures["worst_mean"] > FUSED_LIMIT
        assert "more than rounding explains" in other.sentence
