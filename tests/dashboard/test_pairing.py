"""Models beside each other: rows, disagreement, recipes and what is taken along."""

import csv
import io
import json

from dashboard.model_comparison import Row, as_csv, as_html, by_sample, recipe_differences, rows
from naruto_core.domain import Prompt, Sample, Score, Variant

HOSTILE = "=cmd|' /C calc'!A0 <img src=x onerror=alert(1)> \"quoted\""
PROMPT = Prompt("kage", HOSTILE, HOSTILE, ("portrait",))


def sample(name: str, seed: int) -> Sample:
    return Sample(f"{name}{seed}", name, Variant.BASE, "kage", seed, f"{name}.png", f"sha-{name}{seed}")


def found() -> list[Row]:
    return rows(
        [[sample("a", 1), sample("a", 2)], [sample("b", 2), sample("b", 3)]],
        [{"a2": {"clip": 0.25}}, {"b2": {"clip": 0.75}}],
        [PROMPT],
    )


def test_the_same_seed_stands_beside_the_same_seed_and_a_gap_where_there_is_none() -> None:
    assert [(row.seed, *(one.id if one else None for one in row.samples)) for row in found()] == [
        (1, "a1", None),
        (2, "a2", "b2"),
        (3, None, "b3"),
    ]


def test_disagreement_is_the_distance_of_scores_and_unknown_where_one_is_missing() -> None:
    assert [row.apart("clip") for row in found()] == [-1.0, 0.5, -1.0]


def test_only_scores_of_single_pictures_belong_to_pictures() -> None:
    of_set = Score("r", "fid", Variant.BASE, 1.0, 1.0, 1.0, 40, "judge", "1", "d", "jackknife")
    of_one = Score("r", "clip", Variant.BASE, 0.5, 0.5, 0.5, 1, "judge", "1", "", "", sample_id="a1")
    assert by_sample([of_set, of_one]) == ({"a1": {"clip": 0.5}}, {"clip": "judge (version 1)"})


def test_recipes_differ_only_where_they_differ() -> None:
    one, other = {"train": {"rank": 8, "steps": 100}, "seed": 1}, {"train": {"rank": 16, "steps": 100}, "extra": None}
    assert recipe_differences([json.dumps(one), json.dumps(other)]) == {
        "extra": ["", "null"],
        "seed": ["1", ""],
        "train.rank": ["8", "16"],
    }


def test_a_table_holds_one_line_for_each_picture_and_no_formula() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(["a", "b"], found()))))
    assert [(line["model"], line["seed"], line["clip"]) for line in lines] == [
        ("a", "1", ""),
        ("a", "2", "0.25"),
        ("b", "2", "0.75"),
        ("b", "3", ""),
    ]
    assert all(line["text"].startswith("'=") for line in lines)


def test_a_page_taken_along_needs_no_server_and_runs_no_prompt() -> None:
    page = as_html(["a", "<b>"], found(), {"sha-a2": "data:image/webp;base64,AA=="})
    assert "<img src=x" not in page
    assert "<b>" not in page
    assert page.count("data:image/webp") == 1
    assert "http" not in page
