"""A sweep file is checked before anything is computed, and says which runs there are."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from naruto_core.errors import RecipeInvalid
from naruto_core.sweep import read_sweep, setting_label

GOOD: dict[str, Any] = {
    "name": "ranks",
    "recipe": "mini",
    "grid": {"training.rank": [4, 8], "fusion.lora_scale": [1.0, 0.5]},
    "seeds": [1, 2],
    "objective": "mmd",
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    tree = {key: value for key, value in (GOOD | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def test_the_cells_are_every_setting_with_every_seed_and_the_first_setting_has_the_first_values(tmp_path: Path):
    cells = read_sweep(write(tmp_path)).cells()
    assert [(cell.position, cell.setting, cell.seed) for cell in cells[:3]] == [(0, 0, 1), (1, 0, 2), (2, 1, 1)]
    assert len(cells) == 8
    assert cells[0].overrides == {"training.rank": 4, "fusion.lora_scale": 1.0, "training.seed": 1}
    assert cells[7].overrides == {"training.rank": 8, "fusion.lora_scale": 0.5, "training.seed": 2}


def test_a_setting_is_called_by_the_values_in_which_settings_differ():
    settings = [{"training.rank": rank, "training.max_train_steps": 100} for rank in (4, 8)]
    assert [setting_label(values, settings) for values in settings] == ["training.rank=4", "training.rank=8"]
    assert setting_label(settings[0], settings[:1]) == "training.rank=4, training.max_train_steps=100"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gird": {}}, "unknown key gird (did you mean grid?)"),
        ({"grid": {}}, "grid: it is empty: name a key"),
        ({"grid": None}, "grid is missing"),
        ({"grid": {"training.rank": []}}, "training.rank has no values"),
        ({"grid": {"training.rank": 8}}, "grid.training.rank: Input should be a valid tuple (got 8)"),
        ({"grid": {"training.rank": [4, 4]}}, "a value of training.rank is repeated"),
        ({"grid": {"training.seed": [1, 2]}}, "training.seed cannot be in the grid: list its values in seeds"),
        ({"grid": {"scoring.primary": [["mmd"]]}}, "scoring.primary cannot be in the grid: scores"),
        ({"grid": {"generation.seeds": [1, 2]}}, "generation.seeds cannot be in the grid"),
        ({"grid": {"dataset.hold_out": [1, 2]}}, "dataset.hold_out cannot be in the grid"),
        ({"seeds": []}, "seeds: it is empty"),
        ({"seeds": [1, 1]}, "a seed is repeated"),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0"),
        ({"name": "../x"}, "name: String should match pattern"),
    ],
)
def test_a_wrong_file_is_one_sentence(changes: dict[str, Any], sentence: str, tmp_path: Path):
    with pytest.raises(RecipeInvalid) as refused:
        read_sweep(write(tmp_path, **changes))
    assert str(refused.value).startswith("sweep file sweep.yaml: ")
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_sweep_and_one_with_too_many_runs_are_refused(tmp_path: Path):
    with pytest.raises(RecipeInvalid, match="there is no sweep file"):
        read_sweep(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(RecipeInvalid, match="must be a mapping with name"):
        read_sweep(tmp_path / "list.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")  # must not wait for a writer
    with pytest.raises(RecipeInvalid, match="it is not a file"):
        read_sweep(tmp_path / "pipe.yaml")
    huge = read_sweep(write(tmp_path, grid={"training.rank": list(range(1, 6002))}))
    with pytest.raises(RecipeInvalid, match="has 12,002 runs; the most is 10,000"):
        huge.cells()
