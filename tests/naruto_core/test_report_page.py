"""The report page: its first sentence says what was compared, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime

from naruto_core.domain import PromptSuite, Run, RunState
from naruto_core.report.page import ReportFacts, report_page
from naruto_core.scoring.comparison import Comparison
from naruto_core.scoring.resampling import Difference
from naruto_core.scoring.verdict import Verdict

RUN = Run("2026-11-23-mini-3f9c", "mini", "f" * 64, "ds-1", RunState.DONE, datetime(2026, 11, 23, tzinfo=UTC))
FACTS = ReportFacts(RUN, PromptSuite("suite", "f" * 64, (), (1,)), [], [], [], [], {}, [])
OTHER = Comparison("vendi", "1", "", False, 9.0, 8.0, Difference(-1, -2, -0.5, 0.01, 9), 0.01, Verdict("less"), 9)


def test_a_report_without_a_primary_metric_does_not_say_that_base_and_adapted_were_not_drawn() -> None:
    page = report_page(replace(FACTS, comparisons=[OTHER]))
    assert "were not both drawn" not in page
    assert "none of the primary metrics was measured for both" in page


def test_a_report_without_a_comparison_does_not_say_that_nothing_was_left_undecided() -> None:
    page = report_page(FACTS)
    assert "were not both drawn" in page
    assert "Nothing was left undecided" not in page
