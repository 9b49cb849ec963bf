"""The verdict on a difference: better, worse, or undecided, with the range of prompts that would decide it."""

from dataclasses import dataclass

import scipy  # scipy.special is imported at its first use; scipy.stats would take a second

from naruto_core.errors import amount
from naruto_core.intervals import LEVEL, POWER, Forecast, forecast
from naruto_core.scoring.resampling import LEAST_PROMPTS, Difference

ROUNDING = 1e-6  # of the values themselves


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a difference says of the second model.

    word: better, worse or undecided; more or less where neither is better; alike where nothing differs at all; cannot
        be judged; not measured.
    more: the further prompts that would decide an undecided difference.
    why: the reason of the last two words, or of an undecided difference that more prompts may not decide.
    """

    word: str
    more: Forecast | None = None
    why: str = ""

    def __str__(self) -> str:
        return f"{self.word}{self.why}" + (f", {self.more.text('prompts')} would decide it" if self.more else "")


def not_judged(prompts: int) -> Verdict:
    """The verdict for fewer prompts than a test needs; there may be an interval nevertheless."""
    counted = amount(prompts, "prompt")
    return Verdict("cannot be judged", why=f" with n = {counted}: at least {LEAST_PROMPTS} are needed")


def not_measured(reason: str) -> Verdict:
    """The verdict for a metric that has no value here, with the reason."""
    return Verdict("not measured", why=f": {reason.rstrip('.')}")


def verdict(change: Difference, better: int, adjusted_p: float | None, size: float = 1.0) -> Verdict:
    """What `change` says of the second model.

    `better` is 1 when more is better, -1 when less is, 0 when neither is; `adjusted_p` is Holm's; `size` is the size of
    the values that differ.
    """
    if change.p == 1 and not change.low and not change.value:
        return Verdict("alike")
    if change.low is None or change.high is None or change.p is None or adjusted_p is None:
        return not_judged(change.prompts)
    if max(abs(change.low), abs(change.high)) < ROUNDING * size:
        return Verdict("alike")
    if adjusted_p < LEVEL:
        up, down = ("better", "worse") if better > 0 else ("worse", "better") if better < 0 else ("more", "less")
        return Verdict(up if change.value > 0 else down)
    if any(change.allowance):
        low, high = change.allowance
        return Verdict("undecided", why=f"; {low:+.3f} to {high:+.3f} may be the network's own preference of a style")
    return Verdict("undecided", _more_prompts(change, adjusted_p / change.p))


def _more_prompts(change: Difference, tests: float) -> Forecast:
    """The further prompts with which the difference is decided at the 5 % level over `tests` tests (Bonferroni).

    In the normal approximation: errors shrink with the root of the prompts.
    """
    deviations = float(scipy.special.ndtri(POWER) - scipy.special.ndtri(LEVEL / 2 / max(1.0, tests)))
    error, n = change.error, change.prompts
    return forecast(change.value, error, n, lambda effect: n * (deviations * error / effect) ** 2)
