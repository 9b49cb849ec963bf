"""Plots of values with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Literal

import altair as alt
import streamlit as st
from altair.utils import schemapi
from streamlit.delta_generator import DeltaGenerator

# A check of each part and of the whole against Vega-Lite's schema takes two thirds of a chart's time; tests check all.
schemapi.disable_debug_mode()
alt.theme.enable("none")  # as st.altair_chart does: the sizes are Streamlit's

Row = dict[str, str | float | None]
# Okabe and Ito (2008): colours that stay apart for colour-blind people; grey replaces black, invisible in the dark
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#7f7f7f")
ANCHOR_COLOUR = "#8a8a8a"  # a contrast of at least 3.4 on white and on the dark background
_FEW = 30
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]  # and a second sign beside the colour


def show(
    chart: alt.Chart | alt.LayerChart,
    place: DeltaGenerator | None = None,
    width: Literal["stretch", "content"] = "stretch",
) -> None:
    """Draw `chart` in `place`, by default where the page stands."""
    (place or st).vega_lite_chart(chart.to_dict(validate=False), width=width)


def interval_plot(rows: Sequence[Row], title: str, *, zero: float | None = None) -> alt.LayerChart:
    """A dot and an interval for each row (name, value, low, high), one below the other; a dashed line at `zero`."""
    data = alt.Data(values=list(rows))
    order = [str(row["name"]) for row in rows]
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=400))
    scale = alt.Scale(zero=False)
    base = alt.Chart(data).encode(y=y)
    lines = base.mark_rule(strokeWidth=2, color=COLOURS[0]).encode(
        x=alt.X("low:Q", title=title, scale=scale), x2="high:Q"
    )
    tooltips = [alt.Tooltip(f"{field}:{kind}", format=number_format) for field, kind, number_format in _TOOLTIPS]
    dots = base.mark_point(filled=True, size=90, opacity=1, color=COLOURS[0]).encode(
        x=alt.X("value:Q", scale=scale), tooltip=tooltips
    )
    layers: list[alt.Chart] = [lines, dots]
    if zero is not None:
        line = alt.Chart(alt.Data(values=[{"at": zero}])).mark_rule(strokeDash=[4, 4], color=ANCHOR_COLOUR)
        layers.insert(0, line.encode(x="at:Q"))
    return alt.layer(*layers).properties(height=alt.Step(34))


_TOOLTIPS = (("name", "N", ""), ("value", "Q", ".3f"), ("low", "Q", ".3f"), ("high", "Q", ".3f"))


def line_plot(rows: Sequence[Row], x: str, y: str, colours: Mapping[str, str], height: int = 260) -> alt.LayerChart:
    """A line for each `run` of `rows`, over the fields `x` and `y`; points `raw` behind it, where a row has them."""
    runs = list(dict.fromkeys(str(row["run"]) for row in rows))
    colour = alt.Color(
        "run:N", title=None, legend=alt.Legend(orient="bottom", columns=2, labelLimit=400) if len(runs) > 1 else None,
        scale=alt.Scale(domain=runs, range=[colours.get(run, COLOURS[0]) for run in runs]),
    )  # fmt: skip
    chart = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X(f"{x}:Q", axis=alt.Axis(format="d", tickMinStep=1)), color=colour
    )
    scale = alt.Scale(zero=False)
    tooltips = [alt.Tooltip("run:N"), alt.Tooltip(f"{x}:Q"), alt.Tooltip(f"{y}:Q", format=".4g")]
    points = len(rows) <= _FEW * len(runs)  # a line through a few steps shows where they are
    lines = chart.mark_line(interpolate="monotone", strokeWidth=2, point=points).encode(
        y=alt.Y(f"{y}:Q", scale=scale), strokeDash=alt.StrokeDash("run:N", scale=alt.Scale(range=_DASHES), legend=None),
        tooltip=tooltips,
    )  # fmt: skip
    behind = chart.transform_filter("isValid(datum.raw)").mark_line(opacity=0.25, strokeWidth=1)
    return alt.layer(behind.encode(y=alt.Y("raw:Q", title=y, scale=scale)), lines).properties(height=height)


def sparkline(values: Sequence[float]) -> alt.Chart:
    """A line without axes."""
    data = alt.Data(values=[{"x": place, "y": value} for place, value in enumerate(values)])
    x, y = (alt.X("x:Q", axis=None), alt.Y("y:Q", axis=None, scale=alt.Scale(zero=False)))
    return alt.Chart(data).mark_line(strokeWidth=2, color=COLOURS[0]).encode(x=x, y=y).properties(height=56)


def metric_over_runs(
    rows: Sequence[Row], anchors: Sequence[Row], title: str, colours: Mapping[str, str]
) -> alt.LayerChart:
    """A point and an interval for each `run` (run, name, at, value, low, high), in the order of time; dashed lines at
    the `anchors` (name, value)."""
    runs = [str(row["run"]) for row in rows]
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X("name:N", title=None, sort=[str(row["name"]) for row in rows], axis=alt.Axis(labelAngle=-30)),
        color=alt.Color(
            "run:N", legend=None, scale=alt.Scale(domain=runs, range=[colours.get(run, COLOURS[0]) for run in runs])
        ),
    )
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    tooltips = [alt.Tooltip(f"{field}:{kind}", format=number_format) for field, kind, number_format in _TOOLTIPS]
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(y=y, tooltip=tooltips)
    layers: list[alt.Chart] = [dots] if all(row["low"] is None for row in rows) else [bars, dots]
    if anchors:
        marks = alt.Chart(alt.Data(values=list(anchors)))
        layers += [
            marks.mark_rule(strokeDash=[6, 4], opacity=0.7, color=ANCHOR_COLOUR).encode(y="value:Q"),
            marks.mark_text(align="left", dy=-6, x=4, color=ANCHOR_COLOUR, fontSize=12).encode(
                y="value:Q", text="name:N"
            ),
        ]
    return alt.layer(*layers).properties(height=240)


def parallel_coordinates(
    rows: Sequence[Row], axes: Sequence[str], colour: alt.Color, ticks: Sequence[Row] = (), title: str | None = None
) -> alt.LayerChart:
    """A line for each `name` over the `axes`: rows (name, axis, place, value), `place` 0 (below) to 1.

    `colour` is by a field of `rows`; `ticks` (axis, place, text) name values on the axes; `title` is of the places.
    """
    x = alt.X("axis:N", sort=list(axes), title=None, axis=alt.Axis(labelAngle=0, labelLimit=260, domain=False))
    shown = alt.Axis(labels=False, ticks=False, grid=False) if title else None
    y = alt.Y("place:Q", title=title, axis=shown, scale=alt.Scale(domain=[-0.05, 1.05]))
    hovered = alt.selection_point(on="pointerover", fields=["name"], empty=False)
    lines = alt.Chart(alt.Data(values=list(rows))).mark_line(point=True).encode(
        x=x,
        y=y,
        detail="name:N",
        color=colour,
        strokeWidth=alt.condition(hovered, alt.value(5), alt.value(2)),
        opacity=alt.condition(hovered, alt.value(1), alt.value(0.75)),
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("axis:N"), alt.Tooltip("value:N")],
    )  # fmt: skip
    rules = alt.Chart(alt.Data(values=[{"axis": axis} for axis in axes])).mark_rule(opacity=0.35).encode(x=x)
    layers = [rules, lines.add_params(hovered)]
    if ticks:
        texts = alt.Chart(alt.Data(values=list(ticks))).mark_text(align="left", dx=7, fontSize=12)
        layers.append(texts.encode(x=x, y=y, text="text:N", color=alt.value("#7f7f7f")))
    return alt.layer(*layers).properties(height=320)


def run_colour(runs: Sequence[str], colours: Mapping[str, str]) -> alt.Color:
    """The colour of each of `runs`, a field `name`, the same as on every page; without a legend."""
    scale = alt.Scale(domain=list(runs), range=[colours.get(run, COLOURS[0]) for run in runs])
    return alt.Color("name:N", legend=None, scale=scale)


def heat_map(rows: Sequence[Row]) -> alt.LayerChart:
    """How many marks (x, y from the upper left, 0 to 1, name) lie in each part of a picture, and the marks."""
    base = alt.Chart(alt.Data(values=list(rows)))
    parts = alt.Bin(step=0.125, extent=(0, 1))
    axis = alt.Axis(labels=False, ticks=False, grid=False)
    rectangles = base.mark_rect(opacity=0.6).encode(
        x=alt.X("x:Q", bin=parts, title="left to right", axis=axis),
        y=alt.Y("y:Q", bin=parts, title="bottom to top", axis=axis, scale=alt.Scale(reverse=True)),
        color=alt.Color("count():Q", title="marks", scale=alt.Scale(scheme="oranges")),
    )
    points = base.mark_point(filled=True, color="#0072b2", size=30).encode(
        x=alt.X("x:Q", scale=alt.Scale(domain=(0, 1))), y=alt.Y("y:Q", scale=alt.Scale(domain=(0, 1), reverse=True)),
        tooltip=alt.Tooltip("name:N"),
    )  # fmt: skip
    return alt.layer(rectangles, points).properties(width=260, height=260)


def time_series(rows: Sequence[Row], title: str, *, zero: bool = True) -> alt.LayerChart:
    """A line with points for each `name` of `rows`, which have at (ISO, UTC), value, and possibly n, low and high."""
    data = alt.Data(values=list(rows))
    x = alt.X("at:T", title=None, scale=alt.Scale(type="utc"), axis=alt.Axis(labelOverlap=True))
    scale = alt.Scale(zero=zero)
    tooltips = [alt.Tooltip("at:T", title="UTC", format="%Y-%m-%d %H:%M", timeUnit="utcyearmonthdatehoursminutes")]
    tooltips += [alt.Tooltip("name:N"), alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("n:Q")]
    colour = alt.Color("name:N", title=None, legend=alt.Legend(orient="bottom"), scale=alt.Scale(range=list(COLOURS)))
    base = alt.Chart(data).encode(x=x, color=colour)
    line = base.mark_line(point=True).encode(y=alt.Y("value:Q", title=title, scale=scale), tooltip=tooltips)
    if all(row.get("low") is None for row in rows):  # an empty layer is an element without a name for screen readers
        return alt.layer(line).properties(height=220)
    bars = base.transform_filter("isValid(datum.low)").mark_rule(opacity=0.6)
    return alt.layer(bars.encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q"), line).properties(height=220)
