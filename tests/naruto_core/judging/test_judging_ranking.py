"""Rankings against choix, and against raters with known strengths, noise and side bias."""

import choix
import numpy as np
import pytest
from scipy import stats

from naruto_core.errors import NarutoError
from naruto_core.judging.ranking import PRIOR, Ranking, Vote, rank
from naruto_core.ratings import Outcome

TRUE = {"a": 0.9, "b": 0.2, "c": -0.3, "d": -0.8}
LEFT_BIAS = 0.4


def world(seed: int, prompts: int = 40, each: int = 6, bias: float = LEFT_BIAS) -> list[Vote]:
    """Votes of raters who follow the model, with strengths that vary from prompt to prompt."""
    random, votes = np.random.default_rng(seed), list[Vote]()
    for prompt in range(prompts):
        strengths = {name: value + random.normal(0, 0.3) for name, value in TRUE.items()}
        for _ in range(each):
            left, right = random.permutation(sorted(TRUE))[:2]
            likely = 1 / (1 + np.exp(-(strengths[left] - strengths[right] + bias)))
            votes.append(Vote(f"p{prompt}", left, right, Outcome.LEFT if random.random() < likely else Outcome.RIGHT))
    return votes


def values(ranking: Ranking) -> dict[str, float]:
    return {strength.model: strength.value for strength in ranking.models}


def test_strengths_equal_choixs_without_side_bias():
    votes = world(0, bias=0.0)
    both = [*votes, *(Vote(v.prompt, v.right, v.left, _other(v.outcome)) for v in votes)]  # without any side bias
    names = sorted(TRUE)
    pairs = [
        (names.index(v.left), names.index(v.right))
        if v.outcome is Outcome.LEFT
        else (names.index(v.right), names.index(v.left))
        for v in both
    ]
    theirs = choix.opt_pairwise(len(names), pairs, alpha=1 / (2 * PRIOR**2), tol=1e-10)
    ranking = rank(both)
    assert [values(ranking)[name] for name in names] == pytest.approx(theirs - theirs.mean(), abs=1e-5)
    assert ranking.left.value == pytest.approx(0, abs=1e-8)


def _other(outcome: Outcome) -> Outcome:
    return Outcome.RIGHT if outcome is Outcome.LEFT else Outcome.LEFT


def test_a_tie_is_half_a_vote_for_either():
    ties = [Vote("p", "a", "b", Outcome.TIE), Vote("p", "a", "b", Outcome.BOTH_BAD)]
    split = [Vote("p", "a", "b", Outcome.LEFT), Vote("p", "a", "b", Outcome.RIGHT)]
    clear = [Vote("q", "b", "a", Outcome.LEFT)]
    assert values(rank([*ties, *clear])) == pytest.approx(values(rank([*split, *clear])))


def test_a_model_that_won_every_vote_stays_finite_and_first():
    votes = [Vote(f"p{i}", *sides, outcome) for i in range(200) for sides, outcome in
             ((("a", "b"), Outcome.LEFT), (("b", "a"), Outcome.RIGHT))]  # fmt: skip
    ranking = rank(votes)
    assert [strength.model for strength in ranking.models] == ["a", "b"]
    assert 3 < ranking.models[0].value < 10
    assert 3 < ranking.gaps[0, 1].low < ranking.gaps[0, 1].value
    assert ranking.models[0].votes == 400


def test_intervals_cover_known_strengths_and_the_known_left_bias_in_at_least_95_of_100_worlds():
    worlds, hits, ordered = 100, dict.fromkeys((*TRUE, "left"), 0), 0
    centred = {name: value - np.mean(list(TRUE.values())) for name, value in TRUE.items()} | {"left": LEFT_BIAS}
    for seed in range(worlds):
        ranking = rank(world(seed))
        ordered += ranking.models[0].model == "a"
        for strength in (*ranking.models, ranking.left):
            hits[strength.model] += strength.low <= centred[strength.model] <= strength.high
    low = stats.binom.ppf(0.001, worlds, 0.95)
    assert {name: low <= count for name, count in hits.items()} == dict.fromkeys(hits, True), hits
    assert ordered > 0.95 * worlds


def test_intervals_over_single_votes_would_be_too_narrow():
    votes = [vote for vote in world(1, 20, 2) for _ in range(10)]  # all votes on a prompt are the same
    independent = [Vote(f"{v.prompt}-{i}", v.left, v.right, v.outcome) for i, v in enumerate(votes)]
    widths = [
        np.mean([strength.high - strength.low for strength in rank(cast).models]) for cast in (votes, independent)
    ]
    assert widths[0] > 2 * widths[1]


def test_votes_that_give_no_ranking_are_an_error():
    with pytest.raises(NarutoError, match="no votes yet"):
        rank([])
    apart = [Vote("p", "a", "b", Outcome.LEFT), Vote("p", "c", "d", Outcome.LEFT)]
    with pytest.raises(NarutoError, match="never compared with each other: a, b; c, d"):
        rank(apart)
    with pytest.raises(NarutoError, match="a was shown against itself on p"):
        rank([Vote("p", "a", "a", Outcome.TIE)])
