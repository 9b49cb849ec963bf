"""The short table of scores: what it shows, and that its words come from the interval beside them."""

from dataclasses import replace

import pytest

from naruto_core.domain import Finding, Score, Variant
from naruto_core.judging.decision import WinRate
from naruto_core.report.score_table import WIDTH, headline_table, with_changes
from naruto_core.scoring.comparison import Comparison
from naruto_core.scoring.resampling import Difference
from naruto_core.scoring.verdict import Verdict

VALUES = {"mmd": (12345.678, 17.5, 1.1), "clip-content": (0.627, 0.609, None), "vendi": (14.05, 11.43, 11.47)}
COPIES = {"copies": 2.0, "n": 1760.0, "low": 0.001, "high": 0.021}
RATE = WinRate("adapted", 0.62, 0.55, 0.69, 120, 30)


def scores() -> list[Score]:
    variants = (Variant.BASE, Variant.ADAPTED, Variant.REAL)
    return [
        Score("run", metric, variant, value, value, value, 176, "open_clip:1", "1")
        for metric, values in VALUES.items()
        for variant, value in zip(variants, values, strict=True)
        if value is not None
    ]


def comparison(metric: str, value: float, low: float | None, high: float | None, word: str = "better") -> Comparison:
    change = Difference(value, low, high, 0.01, 44)
    return Comparison(metric, "1", "open_clip:1", True, 1.0, 1.0 + value, change, 0.01, Verdict(word), 176)


def word_of(metric: str, value: float, low: float | None, high: float | None, word: str = "better") -> str:
    changed = with_changes(scores(), [comparison(metric, value, low, high, word)])
    line = next(line for line in headline_table(changed, []).splitlines() if f"({metric})" in line)
    return line.split("  ")[-1].strip()


@pytest.mark.parametrize(
    ("metric", "value", "low", "high", "word"),
    [
        ("mmd", -5.0, -8.0, -2.0, "better"),
        ("mmd", 5.0, 2.0, 8.0, "worse"),
        ("mmd", -5.0, -11.0, 1.0, "undecided"),
        ("mmd", -5.0, None, None, "cannot be judged"),
        ("clip-content", 0.1, 0.05, 0.15, "better"),
        ("clip-content", -0.1, -0.15, -0.05, "worse"),
        ("vendi", -2.0, -3.0, -1.0, "less"),
        ("vendi", 2.0, 1.0, 3.0, "more"),
    ],
)
def test_the_word_says_what_the_interval_beside_it_says(
    metric: str, value: float, low: float | None, high: float | None, word: str
):
    # whatever the verdict of a comparison says after its correction for many metrics
    assert word_of(metric, value, low, high) == word
    assert word_of(metric, value, low, high, "undecided") == word


def test_equal_pictures_are_alike():
    assert word_of("mmd", 0.0, 0.0, 0.0, "alike") == "alike"


def test_the_table_fits_into_100_columns_with_the_longest_figures():
    widest = comparison("mmd", -12345.678, -23456.7, -12345.6), comparison("clip-content", -0.017, None, None)
    table = headline_table(with_changes(scores(), widest), [Finding("run", "memorization", True, "…", COPIES)], RATE)
    assert max(map(len, table.splitlines())) <= WIDTH
    lines = {line.split("  ")[0]: line.split() for line in table.splitlines()}
    assert lines["style distance (mmd) ↓"][4:7] == ["12346", "17.5", "1.10"]
    assert lines["copies of training pictures ↓"][-1] == "copies"
    assert lines["human win rate ↑"][-1] == "better"
    assert "n = 176 pictures of each model" in table


def test_a_score_that_was_recorded_before_changes_were_has_no_word():
    lines = headline_table(scores(), []).splitlines()
    assert lines[1].split()[-1] == "1.10"


def test_scores_of_single_pictures_and_of_another_extractor_get_no_change():
    other = [replace(score, extractor="open_clip:2") for score in scores()]
    single = [replace(score, sample_id="s1") for score in scores()]
    for unchanged in (other, single):
        assert with_changes(unchanged, [comparison("mmd", -5.0, -8.0, -2.0)]) == unchanged


def test_a_win_rate_of_one_vote_is_of_1_vote_and_one_just_above_a_half_shows_its_first_decimal() -> None:
    table = headline_table(scores(), [], WinRate("adapted", 1.0, 0.03, 1.0, 1, 1))
    assert "3.0% to 100.0%, 1 vote  " in table
    assert "50.4% to 74.0%, 200 votes" in headline_table(scores(), [], WinRate("adapted", 0.62, 0.504, 0.74, 200, 30))
