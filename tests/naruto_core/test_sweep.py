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

RATE = {"type": "float", "low": 1.0e-5, "high": 1.0e-3, "log": True}
SEARCH: dict[str, Any] = {"ranges": {"training.learning_rate": RATE}, "trials": 5}


def searched(key: str, **of_key: Any) -> dict[str, Any]:
    """Changes that make the file one of a search through a single range."""
    return {"grid": None, "search": SEARCH | {"ranges": {key: of_key}}}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    tree = {key: value for key, value in (GOOD | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def test_the_cells_are_every_setting_with_every_seed_and_the_first_setting_has_the_first_values(tmp_path: Path):
    file = read_sweep(write(tmp_path))
    cells = [cell for n, values in enumerate(file.grid_settings()) for cell in file.cells_of(n, values)]
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
        ({"grid": None}, "search: a sweep has either a grid (keys with values to try) or a search"),
        ({"search": SEARCH}, "search: a sweep has either a grid"),
        ({"grid": {"training.rank": []}}, "training.rank has no values"),
        ({"grid": {"training.rank": 8}}, "grid.training.rank: it must be a list (got 8)"),
        ({"grid": {"training.rank": [4, 4]}}, "a value of training.rank is repeated"),
        (
            {"grid": {"training.seed": [1, 2]}},
            "training.seed cannot be tried like other keys: list its values in seeds",
        ),
        ({"grid": {"scoring.primary": [["mmd"]]}}, "scoring.primary must be the same in all runs: scores"),
        ({"grid": {"generation.seeds": [1, 2]}}, "generation.seeds must be the same in all runs"),
        ({"grid": {"dataset.hold_out": [1, 2]}}, "dataset.hold_out must be the same in all runs"),
        ({"seeds": []}, "seeds: it is empty"),
        ({"seeds": [1, 1]}, "a seed is repeated"),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0"),
        ({"name": "../x"}, "name: it may have lower-case letters, digits and hyphens only"),
        ({"name": "x" * 42}, "and has at most 41 characters"),
        (searched("training.seed", type="int", low=1, high=9), "training.seed cannot be tried like other keys"),
        (searched("training.rank", type="int", low=4, high=4), "low (4) must be less than high (4)"),
        (searched("training.rank", type="int", low=0.5, high=4), "low and high must be whole numbers"),
        (searched("training.rank", type="int", low=4), "numbers have low and high, e.g. {type: int, low: 4, high: 8}"),
        (searched("training.rank", type="choices", values=[]), "choices has no values: list them"),
        (searched("training.rank", type="choices", values=[4, 8], low=1), "choices have values, e.g."),
        (searched("training.rank", type="choices", values=[4, 8]), "the ranges hold only 2 settings: set trials to 2"),
        (searched("training.noise_offset", type="float", low=0, high=1, log=True), "needs a low above 0"),
        (searched("training.rank", kind="int"), "unknown key search.ranges.training.rank.kind"),
        ({"pruning": {"reduction_factor": 1}}, "pruning.reduction_factor: Input should be greater than or equal to 2"),
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
        huge.check_size()
    long = SEARCH | {"ranges": {"training.learning_rate": {"type": "float", "low": 1e-5, "high": 1}}, "trials": 6000}
    with pytest.raises(RecipeInvalid, match="has 12,000 runs; the most is 10,000"):
        read_sweep(write(tmp_path, grid=None, search=long)).check_size()
