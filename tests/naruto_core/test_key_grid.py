"""Runs laid out by two keys of their recipes."""

import json
import time

from naruto_core.report.key_grid import KeyGrid, RunRecipe, key_grids, key_pairs


def run(run_id: str, dataset: str = "d", **keys: object) -> RunRecipe:
    training = {"rank": 4, "learning_rate": 0.1, "seed": 1} | keys
    return RunRecipe(run_id, dataset, json.dumps({"profile": run_id, "training": training, "empty": {}}))


def test_runs_that_differ_in_two_keys_stand_in_a_grid_with_numbers_in_order_and_a_gap_for_a_missing_run():
    recorded = [run(f"r{r}-{v}", rank=r, learning_rate=v) for r in (16, 4, 8) for v in (1, 0.5) if (r, v) != (8, 1)]
    (grid,) = key_grids(recorded, "training.rank", "training.learning_rate")
    assert grid == KeyGrid(
        "training.rank", "training.learning_rate", ("4", "8", "16"), ("0.5", "1"),
        (("r4-0.5", "r8-0.5", "r16-0.5"), ("r4-1", None, "r16-1")), {},
    )  # fmt: skip
    assert key_pairs(recorded) == {("training.learning_rate", "training.rank"): 5}


def test_a_run_that_differs_in_a_third_key_or_in_its_dataset_is_in_no_cell_of_the_grid():
    square = [run(f"{r}{v}", rank=r, learning_rate=v) for r in (4, 8) for v in (1, 2)]
    others = [run("third", rank=8, learning_rate=3, seed=2), run("data", "other", rank=16, learning_rate=1)]
    (grid,) = key_grids([*square, *others], "training.rank", "training.learning_rate")
    assert {name for row in grid.runs for name in row} == {"41", "42", "81", "82"}
    largest = next(iter(key_pairs([*square, *others]).items()))
    assert largest == (("training.learning_rate", "training.rank"), 4)


def test_a_sweep_with_two_seeds_has_two_grids_that_are_told_apart_by_their_seed():
    sweep = [run(f"{r}{v}{s}", rank=r, learning_rate=v, seed=s) for s in (1, 2) for r in (4, 8) for v in (1, 2)]
    grids = key_grids(sweep, "training.rank", "training.learning_rate")
    assert sorted(grid.others["training.seed"] for grid in grids) == ["1", "2"]
    assert {tuple(sorted(name[-1] for row in grid.runs for name in row if name)) for grid in grids} == {
        ("1",) * 4, ("2",) * 4,
    }  # fmt: skip


def test_a_single_row_of_runs_and_equal_recipes_of_two_names_are_no_grid():
    assert key_grids([run("a", rank=4), run("b", rank=8)], "training.rank", "training.learning_rate") == []
    assert key_pairs([run("a"), run("b")]) == {}
    square = [run("x", rank=8), run("y", learning_rate=2), run("z", rank=8, learning_rate=2)]
    doubled = [run("first"), run("second"), *square]
    (grid,) = key_grids(doubled, "training.rank", "training.learning_rate")
    assert "second" not in grid.runs[0]
    assert grid.n_runs == 4


def test_pairs_of_a_thousand_runs_are_found_in_a_second():
    recorded = [run(str(i), rank=i % 10, learning_rate=i // 10 % 10, seed=i // 100) for i in range(1000)]
    began = time.process_time()
    pairs = key_pairs(recorded)
    assert set(pairs.values()) == {100}
    assert len(pairs) == 3
    assert time.process_time() - began < 1
