"""Figures as a person says them."""

from naruto_core.judging.decision import PairDecision


def duration(seconds: float) -> str:
    """Seconds as a person says them: 48 s, 4 min 05 s, 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def in_words(one: PairDecision) -> str:
    """What may be said of two models, and what more votes would change."""
    chance = f"P = {one.chance:.1%}" if one.chance < 0.9995 else "P > 99.9 %"
    if one.needed == 0:
        return f"{one.stronger} is better than {one.weaker} ({chance}). More votes would not change that."
    if one.needed is None:
        return f"{one.stronger} and {one.weaker} are as good as equal ({chance}). More votes would hardly change that."
    return f"{one.stronger} may be better than {one.weaker} ({chance}): about {one.needed} more votes would tell."
