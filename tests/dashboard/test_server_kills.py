"""A server that is killed again and again during a round loses no vote and counts none twice."""

from datetime import UTC, datetime

from served import Served
from test_review_in_browser import open_campaign

from naruto_core.domain import Run
from naruto_core.ratings import Role
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store
from tests.benchmarks.server_kills import round_with_kills


def test_no_vote_is_lost_or_doubled_when_the_server_is_killed_in_between(
    served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    campaign = open_campaign(ratings, store, run)
    ratings.add_reviewer("admin", Role.ADMIN)
    reviewer, _ = ratings.add_reviewer("Ann", Role.REVIEWER)
    sent = round_with_kills(served, campaign, reviewer, kills=2, votes_between=3, now=datetime.now(UTC))
    recorded = ratings.ratings(campaign)
    assert len(sent) == len(recorded) == 6
    assert len({rating.unit_id for rating in recorded}) == 6
