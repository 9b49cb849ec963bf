"""`make dashboard EXAMPLE=1`: a campaign on the runs of this machine with made-up votes, marked as such.

It shows the pages with votes. The made-up reviewers know which model drew a picture, which real reviewers do not: they
prefer the trained model to the base, and one of them has a bias to the left side. Nobody is registered by the example:
whoever could open the dashboard before still can.
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
    """Add the example once."""
    try:
        added = add_example(datetime.now(UTC))
    except NarutoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if added:
        print("An example campaign was added: open the page Campaigns.")
    return 0


def add_example(now: datetime) -> bool:
    """Add the example and return whether it is new."""
    ratings = database().ratings
    if any(campaign.name == _NAME for campaign in ratings.campaigns()):
        return False
    campaign, samples = _campaign(now)
    rng = random.Random(0)
    for name, left_bias in _LEFT_BIAS.items():
        reviewer, _ = ratings.add_reviewer(name, Role.REVIEWER, example=True)
        for number in range(_VOTES):
            at = now + timedelta(seconds=number * 5)
            assignment = ratings.next_assignment(campaign.id, reviewer.id, at, rng=rng)
            if assignment is None:
                break
            answer = _answer(assignment, samples, left_bias, rng)
            seconds = rng.lognormvariate(1.2, 0.5)
            nonce = f"example-{assignment.id}"
            event = RatingEvent(assignment.id, Action.VOTE, nonce, seconds, "1280x800", answer)
            ratings.record(reviewer.id, event, at)
    return True


def _campaign(now: datetime) -> tuple[Campaign, dict[str, tuple[float, str]]]:
    """The campaign over the newest run's variants; the strength and the text of each of its samples."""
    store = database().runs
    counts = store.sample_counts()
    suite = store.prompts(counts[0][0]) if counts else None
    if suite is None:
        raise NarutoError("there are no pictures for an example: type `make demo` first.")
    newest, variants = counts[0][0], {variant for run, variant, _ in counts if run == counts[0][0]}
    samples = {contender(newest, v.value): store.samples(newest, v) for v in distinct_variants(variants)}
    units = plan_units(Mode.PAIR, samples, suite.prompts, overlap=40, raters=3, gold=4, seed=0)
    question = "Which picture would you rather get for this text?"
    campaign = Campaign("", _NAME, question, Mode.PAIR, now, example=True)
    texts = {prompt.slug: prompt.text for prompt in suite.prompts}
    known = {s.id: (_STRENGTHS[s.variant], texts[s.prompt]) for pictures in samples.values() for s in pictures}
    return database().ratings.open_campaign(campaign, units, seed=0), known


def _answer(
    assignment: Assignment, samples: dict[str, tuple[float, str]], left_bias: float, rng: random.Random
) -> Outcome:
    """An answer by the strengths of the models; of a gold pair the picture of the text."""
    (left, left_text), (right, right_text) = (samples[sample] for sample in assignment.samples)
    if left_text != right_text:
        return Outcome.LEFT if left_text == assignment.text else Outcome.RIGHT
    if rng.random() < 0.12:
        return Outcome.TIE
    return Outcome.LEFT if rng.random() < 1 / (1 + exp(right - left - left_bias)) else Outcome.RIGHT


if __name__ == "__main__":
    sys.exit(main())
