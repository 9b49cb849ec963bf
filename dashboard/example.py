"""`make dashboard EXAMPLE=1`: a campaign on the runs of this machine with made-up votes, marked as such.

It shows the pages with votes. The made-up reviewers know which model drew a picture, which real reviewers do not: they
prefer the trained model to the base, and one of them has a bias to the left side.
"""

import random
import sys
from datetime import UTC, datetime, timedelta
from math import exp

from dashboard.queries.database import database
from naruto_core.domain import Variant, distinct_variants
from naruto_core.errors import NarutoError
from naruto_core.judging.campaign_plan import contender, plan_units
from naruto_core.ratings import Action, Assignment, Campaign, Mode, Outcome, RatingEvent, Role

_NAME = "Example (votes made up by a program)"
_STRENGTHS = {Variant.BASE: -0.8, Variant.ADAPTED: 0.3, Variant.FUSED: 0.5}  # in log-odds
_LEFT_BIAS = {"Made-up Ada": 0.0, "Made-up Ben": 0.1, "Made-up Cleo": 0.9}  # in log-odds
_VOTES = 60  # of each reviewer


def main() -> int:
    """Add the example once, and print the link that opens the dashboard."""
    try:
        link = add_example(datetime.now(UTC))
    except NarutoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if link:
        print(f"An example campaign was added. Open http://127.0.0.1:8501/enter/{link}")
    return 0


def add_example(now: datetime) -> str:
    """The token of the admin's link, or "" when the example exists already."""
    ratings = database().ratings
    if any(campaign.name == _NAME for campaign in ratings.campaigns()):
        return ""
    campaign, strengths = _campaign(now)
    _, token = ratings.add_reviewer(f"Example admin {random.SystemRandom().randrange(10**6)}", Role.ADMIN)
    rng = random.Random(0)
    for name, left_bias in _LEFT_BIAS.items():
        reviewer, _ = ratings.add_reviewer(name, Role.REVIEWER)
        for number in range(_VOTES):
            at = now + timedelta(seconds=number * 5)
            assignment = ratings.next_assignment(campaign.id, reviewer.id, at, rng=rng)
            if assignment is None:
                break
            answer = _answer(assignment, strengths, left_bias, rng)
            seconds = rng.lognormvariate(1.2, 0.5)
            nonce = f"example-{assignment.id}"
            event = RatingEvent(assignment.id, Action.VOTE, nonce, seconds, "1280x800", answer)
            ratings.record(reviewer.id, event, at)
    return token


def _campaign(now: datetime) -> tuple[Campaign, dict[str, float]]:
    """The campaign over the newest run's variants, and the strength of each of its samples."""
    store = database().runs
    counts = store.sample_counts()
    suite = store.prompts(counts[0][0]) if counts else None
    if suite is None:
        raise NarutoError("there are no pictures for an example: type `make demo` first.")
    newest, variants = counts[0][0], {variant for run, variant, _ in counts if run == counts[0][0]}
    samples = {contender(newest, v.value): store.samples(newest, v) for v in distinct_variants(variants)}
    units = plan_units(Mode.PAIR, samples, suite.prompts, overlap=40, raters=3, gold=0, seed=0)
    question = "Which picture would you rather get for this text?"
    campaign = Campaign("", _NAME, question, Mode.PAIR, now, example=True)
    strengths = {sample.id: _STRENGTHS[sample.variant] for pictures in samples.values() for sample in pictures}
    return database().ratings.open_campaign(campaign, units, seed=0), strengths


def _answer(assignment: Assignment, strengths: dict[str, float], left_bias: float, rng: random.Random) -> Outcome:
    if rng.random() < 0.12:
        return Outcome.TIE
    left, right = (strengths[sample] for sample in assignment.samples)
    return Outcome.LEFT if rng.random() < 1 / (1 + exp(right - left - left_bias)) else Outcome.RIGHT


if __name__ == "__main__":
    sys.exit(main())
