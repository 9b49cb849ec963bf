"""What the tests of judgement put before reviewers."""

from datetime import UTC, datetime

from naruto_core.ratings import Action, Assignment, Campaign, Mode, Outcome, RatingEvent, Role, Unit
from naruto_core.store.database import Ratings

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def units(count: int, wanted: int = 1) -> list[Unit]:
    return [Unit(f"p{i % 5}", "a ninja", i, (f"a{i}", f"b{i}"), ("one", "two"), wanted) for i in range(count)]


def vote(assignment: str, nonce: str, outcome: Outcome = Outcome.LEFT) -> RatingEvent:
    return RatingEvent(assignment, Action.VOTE, nonce, 2.5, "390x844", outcome)


def opened(
    ratings: Ratings, count: int, wanted: int = 1, people: int = 1, informative: float = 0.7, repeats: float = 0.0
) -> tuple[str, list[str]]:
    wish = Campaign("", "first", "Which is better?", Mode.PAIR, NOON, None, informative, repeats)
    campaign = ratings.open_campaign(wish, units(count, wanted), 1)
    ratings.add_reviewer("lead", Role.LEAD)
    return campaign.id, [ratings.add_reviewer(f"r{i}", Role.REVIEWER)[0].id for i in range(people)]


def sides(given: Assignment | None) -> tuple[str, ...]:
    assert given is not None
    return given.samples
