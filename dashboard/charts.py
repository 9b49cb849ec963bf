"""Plots of values with their intervals."""

from collections.abc import Sequence

import altair as alt

Row = dict[str, str | float | None]
# Okabe and Ito (2008): colours that stay apart for colour-blind people; grey replaces black, invisible in the dark
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#7f7f7f")
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]  # and a second sign beside the colour


def interval_plot(rows: Sequence[Row], title: str, *, zero: float | None = None) -> alt.LayerChart:
    """A dot and an interval for each row (name, value, low, high), one below the other; a dashed line at `zero`."""
    data = alt.Data(values=list(rows))
    order = [str(row["name"]) for row in rows]
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=400))
    scale = alt.Scale(zero=False)
    base = alt.Chart(data).encode(y=y)
    lines = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q")
    tooltips = [alt.Tooltip(f"{field}:{kind}", format=number_format) for field, kind, number_format in _TOOLTIPS]
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x=alt.X("value:Q", scale=scale), tooltip=tooltips)
    layers: list[alt.Chart] = [lines, dots]
    if zero is not None:
        line = alt.Chart(alt.Data(values=[{"at": zero}])).mark_rule(strokeDash=[4, 4], opacity=0.6)
        layers.insert(0, line.encode(x="at:Q"))
    return alt.layer(*layers).properties(height=alt.Step(34))


_TOOLTIPS = (("name", "N", ""), ("value", "Q", ".3f"), ("low", "Q", ".3f"), ("high", "Q", ".3f"))


def line_plot(rows: Sequence[Row], x: str, y: str) -> alt.Chart:
    """A line for each `run` of `rows`, over the fields `x` and `y`."""
    data = alt.Data(values=list(rows))
    chart = alt.Chart(data).mark_line(interpolate="monotone")
    return chart.encode(
        x=alt.X(f"{x}:Q"),
        y=alt.Y(f"{y}:Q", scale=alt.Scale(zero=False)),
        color=alt.Color("run:N", scale=alt.Scale(range=list(COLOURS))),
        strokeDash=alt.StrokeDash("run:N", scale=alt.Scale(range=_DASHES)),
    )


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
    bars = base.transform_filter("isValid(datum.low)").mark_rule(opacity=0.6)
    return alt.layer(bars.encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q"), line).properties(height=220)
