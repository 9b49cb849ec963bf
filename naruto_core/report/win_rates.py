"""How often people preferred a run's trained model to its base, over all campaigns."""

from typing import TYPE_CHECKING

from naruto_core.domain import Variant
from naruto_core.ratings import Mode

if TYPE_CHECKING:
    from naruto_core.judging.decision import WinRate
    from naruto_core.store.database import Ratings


def win_rate_over_base(ratings: "Ratings", run_id: str) -> "WinRate | None":
    """How often people preferred the run's trained model to its base; None without a vote on these two.

    Votes that a program made up for an example do not count. scipy is imported only where there are votes.
    """
    base, trained = f"{run_id}/{Variant.BASE}", {f"{run_id}/{variant}" for variant in (Variant.ADAPTED, Variant.FUSED)}
    campaigns = [c.id for c in ratings.campaigns() if c.mode is Mode.PAIR and not c.example]
    campaigns = [campaign for campaign in campaigns if base in ratings.models(campaign)]
    if not campaigns:
        return None
    from naruto_core.judging.decision import win_rates
    from naruto_core.judging.ranking import Vote

    votes = [
        Vote(prompt, sides[0], sides[1], outcome, count)
        for campaign in campaigns
        for prompt, pair, outcome, count in ratings.tally(campaign)
        if base in pair and trained & set(pair)
        for sides in [["adapted" if side in trained else side for side in pair]]
    ]
    return next((rate for rate in win_rates(votes) if rate.model == "adapted"), None)
