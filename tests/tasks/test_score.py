"""What `naruto rescore` reports as moved."""

from naruto_core.domain import Variant, distinct_variants
from tasks.evaluation import score_changes


def test_a_score_moved_only_where_it_differs_by_more_than_rounding() -> None:
    before = {("fid", "base"): 494.0, ("kid", "base"): 1e-9, ("mmd", "base"): 2.0}
    after = {("fid", "base"): 494.0001, ("kid", "base"): -1e-9, ("mmd", "base"): 2.001, ("vendi", "base"): 9.5}
    assert score_changes(before, after) == ["mmd base 2 -> 2.001", "vendi base new 9.5"]
    assert score_changes(after, after) == []


def test_the_fused_model_stands_only_where_the_adapted_one_is_missing() -> None:
    base, adapted, fused, real = Variant.BASE, Variant.ADAPTED, Variant.FUSED, Variant.REAL
    assert distinct_variants({real, fused, adapted, base}) == [base, adapted, real]
    assert distinct_variants({fused, base}) == [base, fused]
