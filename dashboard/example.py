"""`make dashboard EXAMPLE=1`: a campaign on the runs of this machine with votes that a program made up, and marked so.

It shows what the pages look like when people have voted. The made-up reviewers know what each model drew, which no real
one does: they like the fused and the adapted model better than the base, and one of them likes the left side.
"""

import random
import sys
from datetime import UTC, datetime, timedelta
from math import exp

from dashboard.queries.database import the_ratings, the_store
from naruto_core.domain import Variant
from naruto_core.errors import NarutoError
from naruto_core.judging.campaign_plan import contender, plan_units
from naruto_core.ratings import Action, Assignment, Campaign, Mode, Outcome, RatingEvent, Role

_NAME = "Example (votes made up by a program)"
_LIKED = {Variant.BASE: -0.8, Variant.ADAPTED: 0.3, Variant.FUSED: 0.5}
_PULL = {"Made-up Ada": 0.0, "Made-up Ben": 0.1, "Made-up Cleo": 0.9}  # of the left side, in log-odds
_VOTES = 60  # of each


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
    """The token of the lead's link, or "" when the example is there already."""
    ratings = the_ratings()
    if any(one.name == _NAME for one in ratings.campaigns()):
        return ""
    campaign, strengths = _campaign(now)
    _, token = ratings.add_reviewer(f"Example lead {random.SystemRandom().randrange(10**6)}", Role.LEAD)
    draw = random.Random(0)
    for name, pull in _PULL.items():
        reviewer, _ = ratings.add_reviewer(name, Role.REVIEWER)
        for number in range(_VOTES):
            at = now + timedelta(seconds=number * 5)
            given = ratings.next_assignment(campaign.id, reviewer.id, at, draw=draw)
            if given is None:
                break
            answer = _answer(given, strengths, pull, draw)
            seconds = draw.lognormvariate(1.2, 0.5)
            ratings.record(
                reviewer.id, RatingEvent(given.id, Action.VOTE, f"example-{given.id}", seconds, "1280x800", answer), at
            )
    return token


def _campaign(now: datetime) -> tuple[Campaign, dict[str, float]]:
    """The campaign over the newest run's variants, and how much each of its samples is liked."""
    store = the_store()
    drawn = store.drawn()
    suite = store.prompts(drawn[0][0]) if drawn else None
    if suite is None:
        raise NarutoError("there are no pictures to make an example of: type `make demo` first.")
    newest = [(run, variant) for run, variant, _ in drawn if run == drawn[0][0] and variant in _LIKED]
    samples = {contender(run, variant.value): store.samples(run, variant) for run, variant in newest}
    units = plan_units(Mode.PAIR, samples, suite.prompts, overlap=40, raters=3, gold=0, seed=0)
    wish = Campaign(
        "", _NAME, "Which picture would you rather get for this text?", Mode.PAIR, now, example=True
    )  # fmt: skip
    liked = {sample.id: _LIKED[sample.variant] for of in samples.values() for sample in of}
    return the_ratings().open_campaign(wish, units, seed=0), liked


def _answer(given: Assignment, liked: dict[str, float], pull: float, draw: random.Random) -> Outcome:
    if draw.random() < 0.12:
        return Outcome.TIE
    left, right = (liked[sample] for sample in given.samples)
    return Outcome.LEFT if draw.random() < 1 / (1 + exp(right - left - pull)) else Outcome.RIGHT


if __name__ == "__main__":
    sys.exit(main())
