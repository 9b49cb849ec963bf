"""Each risk is reported where it was planted, and not where it was not."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from flows.profiles import choose_recipe, choose_suite
from naruto_core.domain import Finding
from naruto_core.intervals import exact_share
from naruto_core.scoring import findings, memorization
from naruto_core.scoring.feature_set import StylePreference, Vector
from naruto_core.scoring.memorization import Nearness, nearest, ranks
from naruto_core.scoring.resampling import Difference, Estimate
from naruto_core.scoring.sample_metrics import is_blank
from tests.naruto_core.scoring.planted import blamed_by_preference, generalisation

PROMPTS = [str(i // 4) for i in range(80)]


def test_copies_among_the_drawn_pictures_are_a_warning_and_new_pictures_are_not():
    rng = np.random.default_rng(0)
    held_out = rng.normal(0.7, 0.05, 200)
    new, copied = rng.normal(0.7, 0.05, 80), rng.normal(0.7, 0.05, 80)
    copied[::4] = 0.99
    assert not findings.find_overfitting("r", new, held_out, PROMPTS, "held-out pictures").warning
    finding = findings.find_overfitting("r", copied, held_out, PROMPTS, "held-out pictures")
    assert finding.warning
    assert finding.figures["flagged"] == pytest.approx(0.25, abs=0.03)
    assert "look at the nearest pairs" in finding.sentence


def test_new_pictures_are_called_copies_in_at_most_5_of_100_worlds():
    rng = np.random.default_rng(3)
    worlds = [rng.normal(0.7, 0.05, 280) for _ in range(100)]
    alarms = [findings.find_overfitting("r", w[:80], w[80:], PROMPTS, "held-out pictures").warning for w in worlds]
    assert np.mean(alarms) <= 0.05


def test_with_too_few_held_out_pictures_copying_cannot_be_judged():
    finding = findings.find_overfitting("r", np.ones(80), np.ones(50), PROMPTS, "held-out pictures")
    assert finding.warning
    assert finding.sentence == "copying cannot be judged: 50 held-out pictures are too few to compare with."


def world(rng: np.random.Generator, held_out: int = 200, drawn: int = 176) -> tuple[Vector, Vector, Vector]:
    """Cosines of (held-out, drawn) pictures to the nearest of 300 training pictures, and features of these.

    Pictures of ten kinds, which vary in six directions; the mean of a picture's noise is a third of the kinds' spread.
    """
    kinds, directions = rng.normal(size=(10, 48)), rng.normal(size=(6, 48)) / 2.5
    rows = kinds[rng.integers(0, 10, 300 + held_out + drawn)]
    rows = rows + rng.normal(size=(len(rows), 6)) @ directions + rng.normal(size=rows.shape) * 0.02
    cosines = nearest(rows[300:], rows[:300])[0]
    return cosines[:held_out], cosines[held_out:], rows[:300]


def memorization_of(drawn: Vector, held_out: Vector) -> Finding:
    names = [f"s{i}" for i in range(len(drawn))]
    nearness = Nearness(drawn, held_out, [f"t{n}" for n in names])
    return findings.find_memorization("r", names, nearness, None, "held-out pictures")


def test_every_planted_copy_is_named_with_its_training_picture_however_few_there_are():
    rng = np.random.default_rng(4)
    for copies in (1, 2, 4, 8, 16):
        held_out, drawn, training = world(rng)
        drawn[:copies] = nearest(training[:copies].astype(np.float16), training)[0]  # as features are kept
        finding = memorization_of(drawn, held_out)
        assert finding.warning
        assert finding.sentence.startswith(
            f"{copies} of 176 drawn pictures lie nearer to a training picture than all 200"
        )
        assert all(f"s{i} is ts{i} (cosine 1.0000)" in finding.sentence for i in range(copies))
        assert finding.figures["copies"] == copies
        share = exact_share(copies / 176, 176)
        assert f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}] are copies" in finding.sentence
    assert "[5.3%, 14.3%]" in finding.sentence


@pytest.mark.parametrize("held_out", [200, 100, 20])
def test_a_picture_is_called_a_copy_in_at_most_one_of_fifty_runs_without_copies(held_out: int):
    rng = np.random.default_rng(5)
    pools = [np.concatenate(world(rng, 500, 500)[:2]) for _ in range(10)]  # each with 300 training pictures of its own
    runs: list[Finding] = []
    for number in range(200):
        pictures = rng.permutation(pools[number % 10])
        runs.append(memorization_of(pictures[:176], pictures[176 : 176 + held_out]))
    assert np.mean([run.warning for run in runs]) <= memorization.FALSE_ALARM
    assert "no sign of memorization: 0 of 176" in runs[0].sentence
    assert runs[0].sentence.endswith("at most 2.1% (95 %) do.")


def test_no_sign_of_memorization_is_reported_only_when_the_interval_allows_it():
    held_out, drawn, _ = world(np.random.default_rng(6))
    few = memorization_of(drawn[:40], held_out)
    assert few.warning
    assert few.sentence.startswith("memorization cannot be excluded: 0 of 40")
    assert "up to 8.8% (95 %) may" in few.sentence
    uncalibrated = memorization_of(drawn, held_out[:9])
    assert uncalibrated.warning
    assert "9 held-out pictures are too few to calibrate with, at least 10 are needed" in uncalibrated.sentence


def test_held_out_doubles_of_training_pictures_hide_no_copy():
    held_out, drawn, _ = world(np.random.default_rng(7))
    held_out[:30], drawn[3] = 1.0, 1.0
    finding = memorization_of(drawn, held_out)
    assert "than all 170 held-out pictures, 30 doubles of training pictures left out" in finding.sentence
    assert "s3 is ts3 (cosine 1.0000)" in finding.sentence


def test_a_rank_is_the_share_of_held_out_pictures_as_near():
    assert ranks(np.array([0.1, 0.5, 0.9]), [0.2, 0.4, 0.6]).tolist() == [1.0, 0.5, 0.25]


def test_the_nearest_training_picture_is_the_one_with_the_largest_cosine():
    training = np.array([[1.0, 0.0], [0.0, 2.0]])
    cosines, rows = nearest(np.array([[3.0, 1.0], [0.0, 1.0]]), training)
    assert rows.tolist() == [0, 1]
    assert cosines == pytest.approx([3 / np.sqrt(10), 1.0])


def _difference(low: float, high: float) -> Difference:
    return Difference((low + high) / 2, low, high, 0.01, 40)


def test_a_smaller_distance_with_less_variety_than_real_pictures_is_a_collapse():
    nearer, fewer = _difference(-9, -5), _difference(-6, -2)
    real = Estimate(11, 10, 12)
    assert findings.find_collapse("r", nearer, fewer, Estimate(6, 5, 7), real).warning
    assert not findings.find_collapse("r", nearer, fewer, Estimate(11, 9, 13), real).warning  # as varied as real ones
    assert not findings.find_collapse("r", nearer, _difference(-1, 2), Estimate(6, 5, 7), real).warning
    assert not findings.find_collapse("r", _difference(-1, 2), fewer, Estimate(6, 5, 7), real).warning


def test_no_sign_of_collapse_is_not_said_where_chance_may_explain_what_looks_like_one():
    unclear, fewer, real = _difference(-9, 1), _difference(-6, -2), Estimate(11, 10, 12)
    finding = findings.find_collapse("r", unclear, fewer, Estimate(6, 5, 7), real)
    assert not finding.warning
    assert "cannot be excluded" in finding.sentence
    assert "no sign of collapse" in findings.find_collapse("r", unclear, fewer, Estimate(11, 9, 13), real).sentence


def test_the_kind_of_prompt_that_got_worse_is_named():
    rng = np.random.default_rng(1)
    base = rng.normal(0.6, 0.02, 80)
    adapted = base + rng.normal(0, 0.005, 80)
    adapted[40:] -= 0.1
    tags = {str(i): ("portrait",) if i < 10 else ("style",) for i in range(20)}
    tags["0"] = ("portrait", "odd")
    finding = findings.find_generalisation("r", base, adapted, PROMPTS, tags)
    assert finding.warning
    assert "style (-0.1" in finding.sentence
    assert finding.sentence.endswith("Cannot be judged: odd (1 prompt); at least 7 prompts are needed.")
    assert "portrait" not in finding.sentence
    nearly = base - 0.002  # of every picture, so that it is significant, and too small to matter
    assert not findings.find_generalisation("r", base, nearly, PROMPTS, tags).warning
    assert not findings.find_generalisation("r", base, base, PROMPTS, tags).warning


def test_a_tag_is_judged_only_if_it_can_be_significant_among_the_others():
    v1 = {"place": 15, "portrait": 9, "attribute": 8, "report": 6, "action": 6, "two": 4, "odd": 4, "style": 4}
    assert findings.judged_tags(v1) == (["place", "portrait", "attribute"], 8)
    assert findings.judged_tags({"style": 6}) == (["style"], 7)
    assert findings.judged_tags({"style": 5}) == ([], 6)
    v2 = choose_suite(choose_recipe("mini", None, {"generation.suite": "konoha-v2"}).generation)
    counts = Counter(tag for prompt in v2.prompts for tag in prompt.tags)
    assert min(counts.values()) >= 10
    assert set(findings.judged_tags(counts)[0]) == set(counts)


def test_a_drop_in_a_tag_of_konoha_v2_is_found_and_no_other_tag_is_blamed():
    for tag in ("out-of-domain", "style"):
        finding = generalisation("konoha-v2", 1, tag, 25)
        assert f"than the base does: {tag} (-0.1" in finding.sentence
        assert finding.sentence.count(" prompts)") == 1
    assert (
        "Cannot be judged: action (6 prompts), out-of-domain (4 prompts)"
        in generalisation("konoha-v1", 1, "out-of-domain", 25).sentence
    )


def test_no_tag_of_konoha_v2_is_blamed_where_nothing_has_changed():
    assert not any(generalisation("konoha-v2", seed, "", 0).warning for seed in range(4))


def test_no_tag_is_blamed_for_the_networks_own_preference_of_a_style():
    allowed, unallowed = blamed_by_preference(30)
    assert allowed <= 0.05
    assert unallowed > 0.2
    dropped = generalisation("konoha-v2", 1, "style", 25, 0.0, StylePreference(-0.02, 0.02, 200))
    assert "than the base does: style (-0.1" in dropped.sentence
    assert dropped.sentence.endswith(
        "-0.020 to +0.020, which may be the network's own preference of a style, is allowed for."
    )


def test_blank_pictures_are_counted_by_model():
    finding = findings.find_blanks("r", {"base": np.zeros(4), "adapted": np.array([0.0, 1.0, 1.0, 0.0])})
    assert finding.sentence == "pictures without content: 2 of adapted."
    assert not findings.find_blanks("r", {"base": np.zeros(4)}).warning


def test_a_picture_of_one_colour_or_cut_off_is_blank_and_a_drawing_is_not():
    noise = np.random.default_rng(2).integers(60, 200, (32, 32, 3), dtype=np.uint8)
    cut = np.where(noise > 100, 255, 0).astype(np.uint8)
    assert [is_blank(Image.new("RGB", (32, 32), colour)) for colour in ("black", "white", "teal")] == [True] * 3
    assert is_blank(Image.fromarray(np.repeat(cut[..., :1], 3, axis=2)))
    assert not is_blank(Image.fromarray(noise))


def test_the_fused_model_is_judged_by_its_worst_picture_not_by_a_single_pixel():
    alike = findings.find_fused_difference("r", [200.0, 3.0], [0.5, 0.1])
    assert (alike.warning, alike.figures["largest"], alike.figures["mean"]) == (False, 200, pytest.approx(0.3))
    assert "at most 200 of 255 in a pixel and 0.30 on average" in alike.sentence
    limit = findings.SAME_PICTURE
    assert not findings.find_fused_difference("r", [9.0], [limit]).warning
    assert findings.find_fused_difference("r", [9.0, 9.0, 9.0], [limit + 0.1, 0.0, 0.0]).warning


def test_an_adapter_that_has_hardly_moved_is_a_warning_with_the_reason():
    gauges = {"d": 1.0, "largest B": 3e-6}
    finding = findings.find_hardly_moved("r", np.full(6, 0.2), gauges)
    assert finding.warning
    assert "differ from the base's by 0.20 of 255 grey levels" in finding.sentence
    assert "d is 1 times that of its first step; the largest value of the adapter's B matrices is 3.0e-06" in (
        finding.sentence
    )
    assert not findings.find_hardly_moved("r", np.full(6, 20.0), {}).warning


def test_a_canary_picture_beyond_rounding_means_that_the_model_has_changed():
    steady = findings.find_model_change("r", [0.5, 0.0, findings.SAME_PICTURE], 8)
    assert not steady.warning
    assert "3 canary pictures (of 8 that were asked for: the run has no more samples) differ" in steady.sentence
    changed = findings.find_model_change("r", [0.0, findings.SAME_PICTURE + 0.1], 2)
    assert (changed.warning, changed.figures["changed"]) == (True, 1)
    assert "1 of 2 canary pictures differs from" in changed.sentence
    assert "steady: 1 canary picture differs from" in findings.find_model_change("r", [0.5], 1).sentence
