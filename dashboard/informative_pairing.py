"""The most informative pairing of a campaign: computed now and then, by one thread, while others use the last one.

To count the votes of a campaign takes as long as many assignments. Without turns, every thread that serves reviewers
counts at the same moment, and everybody waits.
"""

from dataclasses import dataclass, field
from threading import Lock
from time import monotonic

from naruto_core.judging.ranking import Vote, most_informative_pair
from naruto_core.ratings import Mode
from naruto_core.store.database import Ratings

SECONDS = 30.0  # for which a pairing is used


@dataclass
class InformativePairings:
    """The pairing of each campaign, and when it has to be computed again."""

    _found: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    _turn: Lock = field(default_factory=Lock)

    def pairing(self, ratings: Ratings, campaign_id: str) -> str:
        """The pairing whose next vote tells most, "" where there is no choice, or while the first is computed.

        Raises NotRecorded for an unknown campaign.
        """
        pairing, until = self._found.get(campaign_id, ("", 0.0))
        if monotonic() < until or not self._turn.acquire(blocking=False):
            return pairing
        try:
            pairing = _most_informative(ratings, campaign_id)
            self._found[campaign_id] = pairing, monotonic() + SECONDS
        finally:
            self._turn.release()
        return pairing


def _most_informative(ratings: Ratings, campaign_id: str) -> str:
    models = ratings.models(campaign_id)
    if len(models) < 3 or ratings.campaign(campaign_id).mode is not Mode.PAIR:
        return ""
    votes = [Vote(prompt, *sides, outcome, n) for prompt, sides, outcome, n in ratings.tally(campaign_id)]
    return " ".join(most_informative_pair(models, votes))
