"""Comparison of models: rows, disagreement, recipes and exports."""

import csv
import io
import json

from dashboard.model_comparison import Row, as_csv, as_html, pair_rows, sample_scores
from naruto_core.domain import Prompt, Sample, Score, Variant
from naruto_core.report.recipe_changes import recipe_differences

HOSTILE = "=cmd|' /C calc'!A0 <img src=x onerror=alert(1)> \"quoted\""
PROMPT = Prompt("kage", HOSTILE, HOSTILE, ("portrait",))


def sample(name: str, seed: int) -> Sample:
    return Sample(f"{name}{seed}", name, Variant.BASE, "kage", seed, f"{name}.png", f"sha-{name}{seed}")


def example_rows() -> list[Row]:
    return pair_rows(
        [[sample("a", 1), sample("a", 2)], [sample("b", 2), sample("b", 3)]],
        [{"a2": {"clip": 0.25}}, {"b2": {"clip": 0.75}}],
        [PROMPT],
    )


def test_rows_pair_pictures_of_the_same_seed_and_leave_gaps() -> None:
    assert [(row.seed, *(sample.id if sample else None for sample in row.samples)) for row in example_rows()] == [
        (1, "a1", None),
        (2, "a2", "b2"),
        (3, None, "b3"),
    ]


def test_disagreement_is_the_range_of_scores_and_unknown_where_a_score_is_missing() -> None:
    assert [row.disagreement("clip") for row in example_rows()] == [-1.0, 0.5, -1.0]


def test_only_scores_of_single_pictures_belong_to_pictures() -> None:
    set_score = Score("r", "fid", Variant.BASE, 1.0, 1.0, 1.0, 40, "judge", "1", "d", "jackknife")
    sample_score = Score("r", "clip", Variant.BASE, 0.5, 0.5, 0.5, 1, "judge", "1", "", "", sample_id="a1")
    assert sample_scores([set_score, sample_score]) == ({"a1": {"clip": 0.5}}, {"clip": "judge (version 1)"})


def test_recipes_differ_only_where_they_differ() -> None:
    first, second = (
        {"train": {"rank": 8, "steps": 100}, "seed": 1},
        {"train": {"rank": 16, "steps": 100}, "extra": None},
    )
    assert recipe_differences([json.dumps(first), json.dumps(second)]) == {
        "extra": ["", "null"],
        "seed": ["1", ""],
        "train.rank": ["8", "16"],
    }


def test_an_exported_table_has_a_line_for_each_picture_and_no_formula() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(["a", "b"], example_rows()))))
    assert [(line["model"], line["seed"], line["clip"]) for line in lines] == [
        ("a", "1", ""),
        ("a", "2", "0.25"),
        ("b", "2", "0.75"),
        ("b", "3", ""),
    ]
    assert all(line["text"].startswith("'=") for line in lines)


def test_an_exported_page_needs_no_server_and_runs_no_script_of_a_prompt() -> None:
    page = as_html(["a", "<b>"], example_rows(), {"sha-a2": "data:image/webp;base64,AA=="})
    assert "<img src=x" not in page
    assert "<b>" not in page
    assert page.count("data:image/webp") == 1
    assert "http" not in page
