"""Every warning has a smallest size that matters: just below it nothing is warned of, however significant it is."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from flows.profiles import choose_recipe
from naruto_core.domain import Finding, Picture, Prompt, PromptSuite, Split
from naruto_core.scoring import findings
from naruto_core.scoring.discrimination import ENOUGH, Discrimination
from naruto_core.scoring.drift import SHARE_MARGIN, Values, shift
from naruto_core.scoring.memorization import Nearness
from naruto_core.scoring.resampling import Difference, Estimate
from naruto_core.serving import DriftVerdict
from naruto_core.token_limit import TokenLimit
from tasks.captions import NOISY, is_noisy
from tasks.truncation import StyleCaptions, find_truncated_text, limit_of

N = 10_000
PROMPTS = [str(i // 4) for i in range(N)]
HELD_OUT = np.linspace(0.5, 0.9, N)
PAGE = Path(__file__).parents[3] / "docs/guides/evaluation.md"


def overfitting(share: float) -> Finding:
    drawn = np.where(np.arange(N) % 1000 < round(1000 * share), 0.95, 0.6)
    return findings.find_overfitting("r", drawn, HELD_OUT, PROMPTS, "held-out pictures")


def memorization(copies: float) -> Finding:
    drawn = np.where(np.arange(200) < copies, 1.0, 0.6)
    nearness = Nearness(drawn, HELD_OUT, ["t"] * 200)
    return findings.find_memorization("r", [str(i) for i in range(200)], nearness, None, "held-out pictures")


def collapse(lost: float) -> Finding:
    clear, left = Difference(-5, -5.1, -4.9, 0.001, 40), 100 * (1 - lost)
    return findings.find_collapse("r", clear, clear, Estimate(left, left, left), Estimate(100, 99.99, 100.01))


def generalisation(deviations: float) -> Finding:
    base = np.tile([0.0, 2.0], N // 2)  # a standard deviation of 1
    tags = dict.fromkeys(PROMPTS, ("portrait",))
    return findings.find_generalisation("r", base, base - deviations, PROMPTS, tags)


def blank(pictures: float) -> Finding:
    return findings.find_blanks("r", {"adapted": (np.arange(N) < pictures).astype(float)})


def movement(levels: float) -> Finding:
    return findings.find_hardly_moved("r", np.full(N, levels), {})


@cache
def token_limit() -> TokenLimit:
    return limit_of(choose_recipe("mini"))


def truncated(share: float) -> Finding:
    recipe = choose_recipe("mini")
    captions = ["red " * 80 if i < round(200 * share) else f"a cat {i}" for i in range(200)]
    pictures = [Picture(f"{i}", ".png", 8, 8, text, Split.TRAIN, "") for i, text in enumerate(captions)]
    suite = PromptSuite("s", "f", (Prompt("cat", "a cat", "a cat", ()),), (1,))
    return find_truncated_text("r", recipe, [StyleCaptions("x", pictures)], suite, token_limit())


def of_pictures(find: Callable[..., Finding]) -> Callable[[float], Finding]:
    return lambda level: find("r", [level] * 8, [level] * 8 if find is findings.find_fused_difference else 8)


LIMITS: dict[str, tuple[Callable[[float], Finding], float, float]] = {  # what just matters, and a step below it
    "overfitting": (overfitting, findings.OVERFITTED, -0.001),
    "memorization": (memorization, findings.LEAST_COPIES, -1),
    "collapse": (collapse, findings.LOST_VARIETY, -0.001),
    "generalisation": (generalisation, findings.SMALL_EFFECT * 1.001, -0.001),
    "blank pictures": (blank, findings.LEAST_BLANK, -1),
    "movement": (movement, findings.HARDLY_MOVED * 0.999, 0.002),
    "truncated text": (truncated, findings.CUT_CAPTIONS, -0.005),
    "fused model": (of_pictures(findings.find_fused_difference), findings.SAME_PICTURE * 1.001, -0.01),
    "model change": (of_pictures(findings.find_model_change), findings.SAME_PICTURE * 1.001, -0.01),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_warning_begins_at_the_smallest_size_that_matters(name: str):
    find, limit, below = LIMITS[name]
    assert find(limit).warning
    assert not find(limit + below).warning
    assert find(limit).name == name


def test_captions_metrics_and_drift_have_a_smallest_size_too():
    assert (is_noisy(NOISY + 0.001), is_noisy(NOISY)) == (True, False)
    assert Discrimination(ENOUGH, 0.7, 0.9).enough
    assert not Discrimination(ENOUGH - 0.01, 0.7, 0.9).enough
    own = Values(np.zeros(N), PROMPTS)
    few, many = (Values((np.arange(N) % 1000 < 1000 * share).astype(float), PROMPTS) for share in (0.01, 0.03))
    assert shift(few, own, share=True).verdict is DriftVerdict.STEADY
    assert shift(many, own, share=True).verdict is DriftVerdict.DRIFTED
    assert 0.01 < SHARE_MARGIN < 0.03


def test_the_manual_lists_the_smallest_size_of_every_finding():
    page = PAGE.read_text()
    listed = [
        name for line in page.splitlines() if line.startswith("| ") for name in line.split(" | ")[0][2:].split(", ")
    ]
    assert {*LIMITS, "caption noise", "blind metrics", "not measured"} <= set(listed)
