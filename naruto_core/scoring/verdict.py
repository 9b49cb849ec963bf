"""A difference in words: better, worse, or undecided and how much more would decide it."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from naruto_core.scoring.resampling import LEAST_PROMPTS, Difference

LEVEL, POWER = 0.05, 0.8
NOTHING = 1e-6  # of the values themselves: rounding
MOST = 10_000  # more prompts than that are not worth naming


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word` is better, worse or undecided (more or less where neither is better; alike where nothing differs at all).

    `more` are the prompts that would probably decide what is undecided; None: too many to name. What cannot be judged
    and what was not measured say `why`.
    """

    word: str
    more: int | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.why:
            return f"{self.word}{self.why}"
        if self.word != "undecided":
            return self.word
        many = f"more than {MOST:,}" if self.more is None else f"about {self.more:,}"
        return f"undecided, {many} more prompt{'' if self.more == 1 else 's'} would decide it"


def not_judged(prompts: int) -> Verdict:
    """Of too few prompts there is neither an interval nor a forecast."""
    return Verdict("cannot be judged", why=f" with n = {prompts} prompts: at least {LEAST_PROMPTS} are needed")


def not_measured(reason: str) -> Verdict:
    """`reason` is why a metric has no value here."""
    return Verdict("not measured", why=f": {reason.rstrip('.')}")


def verdict(found: Difference, better: int, adjusted_p: float | None, size: float = 1.0) -> Verdict:
    """What `found` says of the second, where `better` is +1 when more is better, 0 when neither is, and
    `adjusted_p` is Holm's. `size` is how large the values are that differ.

    Undecided: the number of prompts for which a difference as seen would be found with 80 % power at 5 % (the normal
    approximation: prompts grow with the square of reach over difference), less those there are.
    """
    if found.p == 1 and found.low is None:
        return Verdict("alike")
    if found.low is None or found.high is None or adjusted_p is None:
        return not_judged(found.prompts)
    if max(abs(found.low), abs(found.high)) < NOTHING * size:
        return Verdict("alike")
    if adjusted_p < LEVEL:
        up, down = ("better", "worse") if better > 0 else ("worse", "better") if better < 0 else ("more", "less")
        return Verdict(up if found.value > 0 else down)
    normal = NormalDist()
    error = (found.high - found.low) / (2 * normal.inv_cdf(1 - LEVEL / 2))
    if not math.isfinite(error) or abs(found.value) < 1e-12 + error / 100:
        return Verdict("undecided")
    reach = (normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)) * error / abs(found.value)
    more = max(1, math.ceil(found.prompts * reach**2) - found.prompts)
    return Verdict("undecided", more if more <= MOST else None)
