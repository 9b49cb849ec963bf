"""Sentences about results."""

from naruto_core.judging.decision import PairDecision


def describe_decision(decision: PairDecision) -> str:
    """Which of two models is better, and whether more votes would change that."""
    probability = f"P = {decision.chance:.1%}" if decision.chance < 0.9995 else "P > 99.9 %"
    pair = decision.stronger, decision.weaker
    if decision.needed == 0:
        return "{} is better than {} ({}). More votes would not change that.".format(*pair, probability)
    if decision.needed is None:
        return "{} and {} are practically equal ({}). More votes would hardly change that.".format(*pair, probability)
    return "{} may be better than {} ({}): about {} more votes would decide.".format(
        *pair, probability, decision.needed
    )
