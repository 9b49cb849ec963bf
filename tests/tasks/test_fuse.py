"""The fused model is compared with the adapted model's samples, and a wrong one is found."""

from dataclasses import replace
from pathlib import Path

import pytest

from naruto_core.artifacts import sha256_folder
from naruto_core.domain import Finding, FusedModel, PromptSuite
from naruto_core.scoring.findings import FUSED_MODEL, SAME_PICTURE
from tasks.context import OpenRun
from tasks.fuse import check_fused, fuse
from tests.tasks.recorded_run import PROMPTS, Recorded, recorded_run


def _check(recorded: Recorded, fused: FusedModel, pictures: int) -> list[Finding]:
    """Check `fused` on so many pictures; the findings of the run about it."""
    check_fused.fn(_opened(recorded, pictures), fused)
    return [finding for finding in recorded.store.findings(recorded.run.id) if finding.name == FUSED_MODEL]


def _opened(recorded: Recorded, pictures: int) -> OpenRun:
    fusion = recorded.recipe.fusion.model_copy(update={"check_pictures": pictures})
    dataset = recorded.store.find_dataset(recorded.run.dataset_id)
    assert dataset
    suite = PromptSuite("rain-v1", "f" * 64, PROMPTS, (11, 22))
    return OpenRun(recorded.run, recorded.recipe.model_copy(update={"fusion": fusion}), suite, (dataset,))


def test_a_fused_model_that_draws_other_pictures_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path))
    with recorded_run(tmp_path, {}) as recorded:
        fused = fuse.fn(_opened(recorded, 4), recorded.adapters)
        assert _check(recorded, fused, 0) == []
        (alike,) = _check(recorded, fused, 4)
        assert (alike.warning, alike.figures["pictures"]) == (False, 2)
        assert alike.figures["largest"] <= 2  # fp32 on a CPU
        recorded.store.add_finding(replace(alike, sentence="kept"))
        assert _check(recorded, fused, 4)[0].sentence == "kept"  # no second check of the same model
        base = FusedModel(recorded.run.id, recorded.layout.relative(recorded.base), sha256_folder(recorded.base), 1.0)
        recorded.store.add_fused(base)  # deletes the finding about the earlier model
        (other,) = _check(recorded, base, 1)
        assert (other.warning, other.figures["pictures"]) == (True, 1)
        assert other.figures["worst_mean"] > SAME_PICTURE
        assert "more than rounding did" in other.sentence
