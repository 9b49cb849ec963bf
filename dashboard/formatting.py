"""Sentences about results."""

from dashboard.navigation import short_name
from naruto_core.judging.decision import EQUAL_WITHIN, PairDecision, PairVerdict


def describe_decision(decision: PairDecision, *, short: bool = False) -> str:
    """Which of two models is better, by the interval that is shown; or how many more votes would decide it.

    With `short`, without the years of the runs' ids.
    """
    first, second = decision.stronger, decision.weaker
    if short:
        first, second = short_name(first), short_name(second)
    rate = (
        f"{first} wins {decision.win_rate:.0%} of their comparisons (95 % interval {decision.low:.1%} to "
        f"{decision.high:.1%}, valid at any number of votes, n = {decision.votes})"
    )
    if decision.verdict is PairVerdict.BETTER:
        return f"{first} is better than {second}: {rate}."
    if decision.verdict is PairVerdict.EQUAL:
        within = f"{0.5 - EQUAL_WITHIN:.0%} to {0.5 + EQUAL_WITHIN:.0%}"
        return f"{first} and {second} are practically equal: {rate}, which lies within {within}."
    more = f" {decision.more.text('votes').capitalize()} would decide it." if decision.more else ""
    return f"{first} or {second}, undecided: {rate}.{more}"
