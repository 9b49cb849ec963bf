"""The verdict on a difference: better, worse, or undecided, with the number of prompts that would decide it."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from naruto_core.scoring.resampling import LEAST_PROMPTS, Difference

LEVEL, POWER = 0.05, 0.8
ROUNDING = 1e-6  # of the values themselves
MOST_PROMPTS = 10_000  # a larger number is not shown


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a difference says of the second model.

    word: better, worse or undecided; more or less where neither is better; alike where nothing differs at all; cannot
        be judged; not measured.
    more: the further prompts that would probably decide an undecided difference; None: more than `MOST_PROMPTS`.
    why: the reason of the last two words.
    """

    word: str
    more: int | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.why:
            return f"{self.word}{self.why}"
        if self.word != "undecided":
            return self.word
        many = f"more than {MOST_PROMPTS:,}" if self.more is None else f"about {self.more:,}"
        return f"undecided, {many} more prompt{'' if self.more == 1 else 's'} would decide it"


def not_judged(prompts: int) -> Verdict:
    """The verdict for fewer prompts than any test needs."""
    return Verdict("cannot be judged", why=f" with n = {prompts} prompts: at least {LEAST_PROMPTS} are needed")


def not_measured(reason: str) -> Verdict:
    """The verdict for a metric that has no value here, with the reason."""
    return Verdict("not measured", why=f": {reason.rstrip('.')}")


def verdict(change: Difference, better: int, adjusted_p: float | None, size: float = 1.0) -> Verdict:
    """What `change` says of the second model.

    `better` is 1 when more is better, -1 when less is, 0 when neither is; `adjusted_p` is Holm's; `size` is the size of
    the values that differ. The number of prompts that would decide: with so many, a difference as large as this one
    would be detected with 80 % power at the 5 % level, in the normal approximation (prompts grow with the square of the
    interval over the difference); less those that there are.
    """
    if change.p == 1 and change.low is None:
        return Verdict("alike")
    if change.low is None or change.high is None or adjusted_p is None:
        return not_judged(change.prompts)
    if max(abs(change.low), abs(change.high)) < ROUNDING * size:
        return Verdict("alike")
    if adjusted_p < LEVEL:
        up, down = ("better", "worse") if better > 0 else ("worse", "better") if better < 0 else ("more", "less")
        return Verdict(up if change.value > 0 else down)
    normal = NormalDist()
    error = (change.high - change.low) / (2 * normal.inv_cdf(1 - LEVEL / 2))
    if not math.isfinite(error) or abs(change.value) < 1e-12 + error / 100:
        return Verdict("undecided")
    reach = (normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)) * error / abs(change.value)
    further = max(1, math.ceil(change.prompts * reach**2) - change.prompts)
    return Verdict("undecided", further if further <= MOST_PROMPTS else None)
