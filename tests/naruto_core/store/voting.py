"""Campaigns and votes for the tests of ratings."""

from datetime import UTC, datetime

from naruto_core.ratings import Action, Campaign, Mode, Outcome, RatingEvent, Role, Unit
from naruto_core.store.database import Ratings

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def units(count: int, raters: int = 1) -> list[Unit]:
    return [Unit(f"p{i % 5}", "a ninja", i, (f"a{i}", f"b{i}"), ("one", "two"), raters) for i in range(count)]


def vote(assignment: str, nonce: str, outcome: Outcome = Outcome.LEFT) -> RatingEvent:
    return RatingEvent(assignment, Action.VOTE, nonce, 2.5, "390x844", outcome)


def open_campaign(
    ratings: Ratings, count: int, raters: int = 1, people: int = 1, informative: float = 0.7, repeats: float = 0.0
) -> tuple[str, list[str]]:
    """A campaign of `count` units and `people` reviewers: their ids."""
    campaign = Campaign("", "first", "Which is better?", Mode.PAIR, NOON, None, informative, repeats)
    campaign_id = ratings.open_campaign(campaign, units(count, raters), 1).id
    ratings.add_reviewer("admin", Role.ADMIN)
    return campaign_id, [ratings.add_reviewer(f"r{i}", Role.REVIEWER)[0].id for i in range(people)]
