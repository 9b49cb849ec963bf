"""The record of human judgement, as one thing to open."""

from naruto_core.store.assignments import Assignments
from naruto_core.store.campaigns import Campaigns
from naruto_core.store.promotions import Promotions
from naruto_core.store.reviewers import Reviewers


class Ratings(Reviewers, Campaigns, Assignments, Promotions):
    """Reviewers, campaigns, who was asked what and what they said, and what was promoted on the strength of it."""
