"""The most informative pairing: one thread computes it, and nobody waits for it."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Event

import pytest

from dashboard import routes
from dashboard.routes import PAIRING_SECONDS, InformativePairings
from naruto_core.judging import ranking
from naruto_core.ratings import Campaign, Mode, Unit
from naruto_core.store.database import Ratings
from tests.dashboard.conftest import START


def _campaign(ratings: Ratings, *names: str) -> str:
    units = [
        Unit("p", "a ninja", n, (f"{one}{n}", f"{other}{n}"), (one, other))
        for n, (one, other) in enumerate(pairwise(names))
    ]
    return ratings.open_campaign(Campaign("", " ".join(names), "?", Mode.PAIR, START), units, 1).id


def test_while_one_thread_computes_a_pairing_the_others_use_the_last_one(
    ratings: Ratings, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, clock, counted = _campaign(ratings, "a", "b", "c"), [1000.0], list[str]()
    started, may_end = Event(), Event()
    tally = Ratings.tally

    def count_slowly(ratings: Ratings, campaign_id: str) -> object:
        counted.append(campaign_id)
        started.set()
        assert may_end.wait(30)
        return tally(ratings, campaign_id)

    monkeypatch.setattr(Ratings, "tally", count_slowly)
    monkeypatch.setattr(routes, "monotonic", lambda: clock[0])
    pairings = InformativePairings()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pairings.pairing, ratings, campaign)
        assert started.wait(30)
        assert [pairings.pairing(ratings, campaign) for _ in range(3)] == [""] * 3  # any unit is assigned meanwhile
        may_end.set()
        found = first.result()
        assert found == " ".join(ranking.most_informative_pair(ratings.models(campaign), []))
        assert pairings.pairing(ratings, campaign) == found
        assert counted == [campaign]
        clock[0] += PAIRING_SECONDS
        started.clear()
        may_end.clear()
        second = pool.submit(pairings.pairing, ratings, campaign)
        assert started.wait(30)
        assert pairings.pairing(ratings, campaign) == found
        may_end.set()
        assert second.result() == found
    assert counted == [campaign] * 2


def test_a_campaign_of_two_models_has_no_choice(ratings: Ratings) -> None:
    pairings = InformativePairings()
    assert pairings.pairing(ratings, _campaign(ratings, "a", "b")) == ""
    assert pairings.pairing(ratings, _campaign(ratings, "a", "b", "c"))
