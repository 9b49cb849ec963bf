"""From ratings to votes, reviewer quality, decisions and grades: known answers."""

import csv
import io
import random
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from choix import ilsr_pairwise

from naruto_core.domain import Prompt, Sample, Variant
from naruto_core.judging.campaign_plan import Budget, plan_budget, plan_units
from naruto_core.judging.decision import PairVerdict, decide_pairs, detectable_win_rate, win_rates
from naruto_core.judging.ranking import Vote, most_informative_pair, rank
from naruto_core.judging.reviewer_quality import is_biased, reviewer_qualities
from naruto_core.judging.vote_table import votes_csv
from naruto_core.judging.votes import answers_by_unit, countable, defect_shares, mean_grades, to_votes
from naruto_core.ratings import Answer, AnswerCount, Defect, Extremes, Grades, Mode, Outcome, Rating
from tests.benchmarks.equal_models import false_better, first_better, simulated_campaigns

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def rating(
    unit: int,
    answer: Answer,
    samples: tuple[str, ...] = ("a", "b"),
    who: str = "r",
    *,
    repeat: bool = False,
    gold: str = "",
    seconds: float = 3.0,
) -> Rating:
    names = tuple(sample.upper() for sample in samples)
    return Rating(unit, who, f"p{unit}", 7, samples, names, answer, seconds, NOON, 1.0, repeat, gold)


def cast(strength: dict[str, float], count: int, seed: int) -> list[Vote]:
    rng, votes = random.Random(seed), []
    for number in range(count):
        left, right = rng.sample(sorted(strength), 2)
        chance = 1 / (1 + np.exp(strength[right] - strength[left]))
        votes.append(Vote(f"p{number % 40}", left, right, Outcome.LEFT if rng.random() < chance else Outcome.RIGHT))
    return votes


def test_repeats_and_gold_units_are_not_countable() -> None:
    single = rating(1, Outcome.LEFT)
    assert countable([single, rating(1, Outcome.LEFT, repeat=True), rating(2, Outcome.LEFT, gold="a")]) == [single]


def test_the_best_and_the_worst_of_four_are_five_votes() -> None:
    samples, names = ("a", "b", "c", "d"), ("A", "B", "C", "D")
    votes = to_votes([AnswerCount(1, "p", samples, names, Extremes(best=2, worst=0), 3)])
    winners = {(v.left, v.right) if v.outcome is Outcome.LEFT else (v.right, v.left) for v in votes}
    assert winners == {("C", "A"), ("C", "B"), ("C", "D"), ("B", "A"), ("D", "A")}
    assert [vote.count for vote in votes] == [3] * 5


def test_the_same_choice_with_swapped_sides_is_the_same_answer() -> None:
    first, swapped = (
        AnswerCount(1, "p", samples, samples, outcome, count)
        for samples, outcome, count in ((("a", "b"), Outcome.LEFT, 2), (("b", "a"), Outcome.RIGHT, 3))
    )
    assert answers_by_unit([first, swapped], "better").tolist() == [[5]]
    other = replace(swapped, answer=Outcome.LEFT)
    assert answers_by_unit([first, other, replace(other, unit_id=2)], "better").tolist() == [[2, 3], [0, 3]]


def test_a_reviewer_who_always_chooses_the_left_is_biased() -> None:
    always = [rating(unit, Outcome.LEFT) for unit in range(20)]
    fair = [rating(unit, (Outcome.LEFT, Outcome.RIGHT)[unit % 2], who="s") for unit in range(20)]
    first, second = reviewer_qualities([*always, *fair])
    assert (is_biased(first.left), is_biased(second.left)) == (True, False)


def test_consistency_is_about_the_picture_and_not_the_side() -> None:
    ratings = [
        rating(1, Outcome.LEFT, ("a", "b")),
        rating(1, Outcome.RIGHT, ("b", "a"), repeat=True),
        rating(2, Outcome.LEFT, ("a", "b")),
        rating(2, Outcome.LEFT, ("b", "a"), repeat=True),
    ]
    (quality,) = reviewer_qualities(ratings)
    assert (quality.consistent.hits, quality.consistent.n) == (1, 2)


def test_gold_answers_are_right_or_wrong_by_their_picture() -> None:
    ratings = [
        rating(1, Outcome.RIGHT, ("b", "a"), gold="a"),
        rating(2, Outcome.LEFT, ("b", "a"), gold="a"),
        rating(3, Outcome.TIE, ("b", "a"), gold="a"),
    ]
    (quality,) = reviewer_qualities(ratings)
    assert (quality.gold.hits, quality.gold.n) == (1, 3)


def even(votes: int) -> list[Vote]:
    """As many votes for "a" as for "b", on 20 prompts."""
    shown = [("a", "b", Outcome.LEFT), ("a", "b", Outcome.RIGHT), ("b", "a", Outcome.LEFT), ("b", "a", Outcome.RIGHT)]
    return [Vote(f"p{i // 4 % 20}", *shown[i % 4]) for i in range(votes)]


def test_a_clear_winner_needs_no_more_votes_and_few_even_votes_are_undecided_not_equal() -> None:
    clear = cast({"a": 1.5, "b": -1.5}, 200, 1)
    (decision,) = decide_pairs(rank(clear), clear)
    assert (decision.stronger, decision.verdict, decision.more) == ("a", PairVerdict.BETTER, None)
    few, many = even(80), even(800)
    (decision,) = decide_pairs(rank(few), few)
    assert decision.verdict is PairVerdict.UNDECIDED
    assert decision.more
    assert decision.more.high is None
    (decision,) = decide_pairs(rank(many), many)
    assert decision.verdict is PairVerdict.EQUAL
    assert 0.4 < decision.low < 0.5 < decision.high < 0.6


def test_better_stands_only_beside_an_interval_above_one_half() -> None:
    for seed in range(10):
        votes = cast({"a": 0.3, "b": -0.1, "c": -0.3}, 150, seed)
        for decision in decide_pairs(rank(votes), votes):
            assert (decision.verdict is PairVerdict.BETTER) == (decision.low > 0.5)
            assert decision.low < decision.win_rate < decision.high


def test_a_look_after_each_of_500_votes_calls_equal_models_better_in_at_most_5_of_100_campaigns() -> None:
    assert false_better(campaigns=300, votes=500, prompts=44, differences=0.5) <= 0.05


def test_the_simulation_of_many_campaigns_decides_after_the_same_vote_as_the_ranking() -> None:
    many = simulated_campaigns(np.random.default_rng(1), 3, 200, prompts=6, differences=0.5, gap=2.0)
    for row, first in enumerate(first_better(many).tolist()):
        assert 5 < first < 200
        sides = [("ab", "ba")[exchanged] for exchanged in many.exchanged[row].tolist()]
        outcomes = [Outcome.LEFT if left else Outcome.RIGHT for left in many.left_wins[row].tolist()]
        votes = [Vote(str(p), *s, o) for p, s, o in zip(many.prompt[row].tolist(), sides, outcomes, strict=True)]
        looks = [decide_pairs(rank(votes[:n]), votes)[0].verdict is PairVerdict.BETTER for n in range(3, first + 2)]
        assert looks == [False] * (first - 2) + [True]


def test_five_unanimous_votes_leave_a_wide_interval() -> None:
    votes = [Vote(f"p{i}", "a", "b", Outcome.LEFT) for i in range(5)]
    best, worst = win_rates(votes)
    assert (best.value, best.high, worst.value, worst.low) == (1, 1, 0, 0)
    assert best.low < 0.478  # Clopper and Pearson's for a single look
    (decision,) = decide_pairs(rank(votes), votes)
    assert decision.verdict is PairVerdict.UNDECIDED


def test_win_rates_give_every_prompt_the_same_weight() -> None:
    votes = [Vote("crowded", "a", "b", Outcome.LEFT)] * 98 + [Vote("quiet", "a", "b", Outcome.RIGHT)] * 2
    assert [(rate.model, rate.value, rate.votes) for rate in win_rates(votes)] == [("a", 0.5, 100), ("b", 0.5, 100)]


def test_the_next_pair_is_the_one_that_is_least_certain() -> None:
    known = cast({"a": 0.0, "b": 0.0}, 300, 3)
    once = [Vote("p", "c", "a", Outcome.LEFT)]
    assert "c" in most_informative_pair(["a", "b", "c"], known + once)
    assert set(most_informative_pair(["a", "b", "c"], [])) <= {"a", "b", "c"}


def test_a_decided_pair_is_not_chosen_again() -> None:
    strength = {"a": 4.0, "b": 0.1, "c": -0.1, "d": -4.0}
    assert set(most_informative_pair(list(strength), cast(strength, 600, 5))) != {"a", "d"}


def test_strengths_agree_with_choix_on_the_same_votes() -> None:
    votes = cast({"a": 0.8, "b": 0.1, "c": -0.9}, 3000, 7)
    names = ["a", "b", "c"]
    pairs = [(v.left, v.right) if v.outcome is Outcome.LEFT else (v.right, v.left) for v in votes]
    theirs = ilsr_pairwise(3, [(names.index(x), names.index(y)) for x, y in pairs], alpha=0.0)
    ours = {model.model: model.value for model in rank(votes).models}
    assert [ours[name] for name in names] == pytest.approx((theirs - theirs.mean()).tolist(), abs=0.02)


def test_grades_are_means_over_prompts_and_defects_shares_of_ratings() -> None:
    ratings = [
        rating(1, Grades(5, 3, frozenset({Defect.HANDS})), ("a",)),
        rating(1, Grades(5, 3), ("a",)),
        rating(2, Grades(2, 3), ("a",)),
    ]
    adherence, style = mean_grades(ratings)
    assert (adherence.mean, adherence.ratings, adherence.prompts) == (3.5, 3, 2)
    assert style.low < style.mean == 3.0 < style.high
    hands = defect_shares(ratings)["A"][Defect.HANDS]
    assert (hands.hits, hands.n) == (1, 3)


def test_equal_votes_may_be_summed() -> None:
    votes = cast({"a": 0.5, "b": 0.0, "c": -0.5}, 300, 11)
    counts: dict[Vote, int] = {}
    for vote in votes:
        counts[vote] = counts.get(vote, 0) + 1
    together = [Vote(v.prompt, v.left, v.right, v.outcome, n) for v, n in counts.items()]
    assert len(together) < len(votes)
    single, summed = rank(votes), rank(together)
    assert [m.value for m in single.models] == pytest.approx([m.value for m in summed.models], abs=1e-9)
    assert single.models[0].votes == summed.models[0].votes
    assert [m.more for m in decide_pairs(single, votes)] == [m.more for m in decide_pairs(summed, together)]
    assert [(r.model, r.value, r.votes) for r in win_rates(votes)] == [
        (r.model, pytest.approx(r.value), r.votes) for r in win_rates(together)
    ]


def test_a_limited_campaign_has_as_many_units_of_each_pair_of_models_and_spreads_them_over_prompts() -> None:
    prompts = [Prompt(f"p{n}", "t", "t", (f"tag{n}",)) for n in range(8)]
    drawn = {
        name: [Sample(f"{name}{p.slug}{s}", name, Variant.BASE, p.slug, s, "", "") for p in prompts for s in range(4)]
        for name in ("a", "b", "c")
    }
    units = plan_units(Mode.PAIR, drawn, prompts, overlap=5, raters=3, gold=4, seed=0, limit=24)
    plain, gold = [unit for unit in units if not unit.gold], [unit for unit in units if unit.gold]
    assert {unit.contenders for unit in plain} == {("a", "b"), ("a", "c"), ("b", "c")}
    for pair in (("a", "b"), ("a", "c"), ("b", "c")):
        assert sorted(unit.prompt for unit in plain if unit.contenders == pair) == [p.slug for p in prompts]
    assert sorted(unit.raters for unit in plain) == [1] * 19 + [3] * 5
    assert [unit.raters for unit in gold] == [1] * 4


def test_votes_as_csv_name_the_winner_and_no_text_is_a_formula() -> None:
    ratings = [
        rating(1, Outcome.RIGHT, seconds=1.25),
        rating(2, Grades(4, 2, frozenset({Defect.HANDS})), ("a",), "=1+1", repeat=True),
        rating(3, Extremes(best=2, worst=0), ("a", "b", "c", "d")),
        rating(4, Outcome.TIE, ("=x", "b"), gold="b"),
    ]
    rows = list(csv.DictReader(io.StringIO(votes_csv(ratings))))
    assert [row["winner"] for row in rows] == ["B", "", "", ""]
    assert (rows[0]["answer"], rows[0]["models"], rows[0]["seconds"]) == ("right", "A B", "1.250")
    assert (rows[1]["adherence"], rows[1]["style"], rows[1]["defects"], rows[1]["repeat"]) == ("4", "2", "hands", "1")
    assert (rows[2]["best"], rows[2]["worst"]) == ("C", "A")
    assert (rows[3]["samples"], rows[3]["gold"]) == ("'=x b", "b")


def test_a_budget_is_spent_to_the_last_vote_and_a_tenth_of_the_units_is_shared():
    for votes, people in ((1, 1), (7, 2), (150, 3), (200, 1), (999, 40)):
        budget = plan_budget(votes, people)
        assert budget.votes == votes
        assert 0 <= budget.overlap <= budget.limit
    assert plan_budget(150, 3) == Budget(limit=126, overlap=12, raters=3)
    assert plan_budget(200, 1).overlap == 0


def test_the_planned_win_rate_is_never_shown_smaller_than_it_is():
    rates = [detectable_win_rate(votes, 2) for votes in range(60, 60_000, 500)]
    assert all(float(f"{rate:.0%}".rstrip("%")) >= 100 * rate - 1e-9 for rate in rates)
    assert min(rates) == 0.51


def test_twelve_votes_can_decide_between_two_models_though_no_planned_rate_is_reached():
    sides = [("a", "b") if n % 2 else ("b", "a") for n in range(12)]
    won = [Vote(f"p{n}", *of, Outcome.LEFT if of[0] == "a" else Outcome.RIGHT) for n, of in enumerate(sides)]
    assert detectable_win_rate(12, 2) == 1
    assert decide_pairs(rank(won), won)[0].verdict is PairVerdict.BETTER


def test_the_detectable_win_rate_is_detected_in_about_four_of_five_campaigns():
    rates = [detectable_win_rate(votes, 2) for votes in (2, 160, 400, 1600)]
    assert rates[0] == 1.0
    assert sorted(rates, reverse=True) == rates
    assert detectable_win_rate(160, 4) > detectable_win_rate(160, 2)
    rng, rate, decided = random.Random(0), rates[1], 0
    for _ in range(100):
        votes = [
            Vote(
                f"p{n % 40}", *sides, Outcome.LEFT if (rng.random() < rate) is (sides[0] == "better") else Outcome.RIGHT
            )
            for n in range(160)
            for sides in [rng.sample(["better", "worse"], 2)]
        ]
        ranking = rank(votes)
        decided += ranking.models[0].model == "better" and ranking.gaps[0, 1].low > 0
    assert 0.7 <= decided / 100 <= 0.92
