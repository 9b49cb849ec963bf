"""Rankings against choix and against raters whose strengths, noise and side bias are known."""

import choix
import numpy as np
import pytest
from scipy import stats

from naruto_core.errors import NarutoError
from naruto_core.judging.ranking import PRIOR, Ranking, Vote, rank
from naruto_core.ratings import Outcome

TRUE = {"a": 0.9, "b": 0.2, "c": -0.3, "d": -0.8}
PULL = 0.4


def world(seed: int, prompts: int = 40, each: int = 6, pull: float = PULL) -> list[Vote]:
    """Votes of raters who follow the model, with strengths that vary from prompt to prompt."""
    random, votes = np.random.default_rng(seed), list[Vote]()
    for prompt in range(prompts):
        here = {name: value + random.normal(0, 0.3) for name, value in TRUE.items()}
        for _ in range(each):
            left, right = random.permutation(sorted(TRUE))[:2]
            likely = 1 / (1 + np.exp(-(here[left] - here[right] + pull)))
            votes.append(Vote(f"p{prompt}", left, right, Outcome.LEFT if random.random() < likely else Outcome.RIGHT))
    return votes


def values(found: Ranking) -> dict[str, float]:
    return {one.model: one.value for one in found.models}


def test_strengths_equal_choixs_where_no_side_pulls():
    votes = world(0, pull=0.0)
    both = [*votes, *(Vote(v.prompt, v.right, v.left, _other(v.outcome)) for v in votes)]  # no side can be preferred
    names = sorted(TRUE)
    pairs = [
        (names.index(v.left), names.index(v.right))
        if v.outcome is Outcome.LEFT
        else (names.index(v.right), names.index(v.left))
        for v in both
    ]
    theirs = choix.opt_pairwise(len(names), pairs, alpha=1 / (2 * PRIOR**2), tol=1e-10)
    found = rank(both, 10, 0)
    assert [values(found)[name] for name in names] == pytest.approx(theirs - theirs.mean(), abs=1e-5)
    assert found.left.value == pytest.approx(0, abs=1e-8)


def _other(outcome: Outcome) -> Outcome:
    return Outcome.RIGHT if outcome is Outcome.LEFT else Outcome.LEFT


def test_a_tie_is_half_a_vote_for_either():
    ties = [Vote("p", "a", "b", Outcome.TIE), Vote("p", "a", "b", Outcome.BOTH_BAD)]
    split = [Vote("p", "a", "b", Outcome.LEFT), Vote("p", "a", "b", Outcome.RIGHT)]
    clear = [Vote("q", "b", "a", Outcome.LEFT)]
    assert values(rank([*ties, *clear], 10, 0)) == pytest.approx(values(rank([*split, *clear], 10, 0)))


def test_a_model_that_won_every_vote_stays_finite_and_first():
    votes = [Vote(f"p{i}", *sides, said) for i in range(200) for sides, said in
             ((("a", "b"), Outcome.LEFT), (("b", "a"), Outcome.RIGHT))]  # fmt: skip
    found = rank(votes, 20, 0)
    assert [one.model for one in found.models] == ["a", "b"]
    assert 3 < found.models[0].value < 10
    assert found.better[0, 1] == 1
    assert found.models[0].votes == 400


def test_known_strengths_and_the_pull_of_the_left_side_lie_in_their_intervals_in_95_of_100_worlds():
    worlds, hits, ordered = 200, dict.fromkeys((*TRUE, "left"), 0), 0
    centred = {name: value - np.mean(list(TRUE.values())) for name, value in TRUE.items()} | {"left": PULL}
    for seed in range(worlds):
        found = rank(world(seed), 60, seed)
        ordered += found.models[0].model == "a"
        for one in (*found.models, found.left):
            hits[one.model] += one.low <= centred[one.model] <= one.high
    low, high = stats.binom.ppf(0.001, worlds, 0.92), stats.binom.ppf(0.999, worlds, 0.98)
    assert {name: low <= count <= high for name, count in hits.items()} == dict.fromkeys(hits, True), hits
    assert ordered > 0.95 * worlds


def test_an_interval_that_takes_votes_for_independent_would_be_too_narrow():
    votes = [vote for vote in world(1, 20, 2) for _ in range(10)]  # everybody says the same of a prompt
    alone = [Vote(f"{v.prompt}-{i}", v.left, v.right, v.outcome) for i, v in enumerate(votes)]
    widths = [np.mean([one.high - one.low for one in rank(some, 200, 0).models]) for some in (votes, alone)]
    assert widths[0] > 2 * widths[1]


def test_what_cannot_be_ranked_is_said():
    with pytest.raises(NarutoError, match="no votes yet"):
        rank([], 10, 0)
    apart = [Vote("p", "a", "b", Outcome.LEFT), Vote("p", "c", "d", Outcome.LEFT)]
    with pytest.raises(NarutoError, match="never compared with each other: a, b; c, d"):
        rank(apart, 10, 0)
    with pytest.raises(NarutoError, match="a was shown against itself on p"):
        rank([Vote("p", "a", "a", Outcome.TIE)], 10, 0)
