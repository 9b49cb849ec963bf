"""The pages do not check charts against Vega-Lite's schema, so it is done here."""

from collections.abc import Callable

import altair as alt
import pytest
from altair.utils.schemapi import SchemaValidationError

from dashboard import charts

INTERVALS: list[charts.Row] = [
    {"run": "one", "name": "one", "at": "2026-01-01", "value": 0.4, "low": 0.3, "high": 0.5},
    {"run": "two", "name": "two", "at": "2026-01-02", "value": 0.6, "low": None, "high": None},
]
STEPS: list[charts.Row] = [{"run": run, "step": step, "loss": 0.1, "raw": 0.2} for run in "ab" for step in range(3)]
PLACES: list[charts.Row] = [{"name": "one", "axis": "mmd", "place": 0.2, "value": "3", "text": "3"}]
COLOURS = {"one": charts.COLOURS[2]}
CHARTS: dict[str, Callable[[], alt.Chart | alt.LayerChart]] = {
    "interval_plot": lambda: charts.interval_plot(INTERVALS, "share", zero=0.5),
    "line_plot": lambda: charts.line_plot(STEPS, "step", "loss", COLOURS),
    "sparkline": lambda: charts.sparkline([0.3, 0.2]),
    "metric_over_runs": lambda: charts.metric_over_runs(INTERVALS, [{"name": "base", "value": 1.0}], "mmd", COLOURS),
    "parallel_coordinates": lambda: charts.parallel_coordinates(
        PLACES, ["mmd"], charts.run_colour(["one"], COLOURS), PLACES, "worst to best"
    ),
    "heat_map": lambda: charts.heat_map([{"x": 0.1, "y": 0.9, "name": "a defect"}]),
    "time_series": lambda: charts.time_series(INTERVALS, "seconds"),
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_what_vega_lites_schema_allows(name: str):
    assert CHARTS[name]().to_dict(validate=True) == CHARTS[name]().to_dict(validate=False)


def test_a_chart_that_the_schema_does_not_allow_is_found():
    wrong = alt.Chart(alt.Data(values=[])).mark_line().encode(x=alt.X("x:Q", axis=alt.Axis(tickMinStep="one")))  # type: ignore[arg-type]
    with pytest.raises(SchemaValidationError, match="one"):
        wrong.to_dict()


def test_every_chart_of_the_module_is_checked():
    made = {name for name, made in vars(charts).items() if getattr(made, "__module__", "") == charts.__name__}
    assert made - {"show", "run_colour"} == set(CHARTS)
