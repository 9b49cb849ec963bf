"""The page Runs: one leaderboard of all runs.

A column has scores of one measurement only: the same metric, extractor, version, reference pictures, prompts and seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st
from pandas.io.formats.style import Styler
from streamlit.delta_generator import DeltaGenerator
from streamlit.elements.arrow import DataframeStateInput
from streamlit.elements.lib.column_types import ColumnConfig

from dashboard import charts
from dashboard.navigation import link, short_name
from dashboard.queries import runs, votes
from dashboard.queries.database import database
from dashboard.views import new_run
from dashboard.views.run_labels import change_labels
from naruto_core.artifacts import sha256_bytes
from naruto_core.domain import RunState
from naruto_core.judging.campaign_plan import contender
from naruto_core.judging.decision import WinRate
from naruto_core.report.leaderboard import Column, Group, Leaderboard, Place, Row, leaderboard_csv
from naruto_core.store.queries import RunSummary

MOST_COMPARED = 12  # runs on the page Compare
_LINES = 60  # in the chart of parallel coordinates
_STATES = [state.value for state in RunState if state is not RunState.DELETED]
_SHADES = {Place.BEST: "background-color: rgba(0, 158, 115, .40); font-weight: 700",
           Place.TIED: "background-color: rgba(0, 158, 115, .14)"}  # fmt: skip
_ALL = "all"
_ROW_HEIGHT = 44
_CHOSEN = "chosen_run_ids"  # in the session's state: the runs that were selected in the table


def show() -> None:
    st.title("Runs")
    if not runs.runs():
        st.info("There is no run yet. Type `make demo` in a terminal, wait some minutes, then reload this page.")
        st.text(f"This dashboard reads {runs.home()}; set NARUTO_HOME to read another folder.")
        return
    with st.expander("Start a run", on_change="rerun", key="new_run") as start:
        if start.open:
            new_run.show()
    board, columns = _filter()
    if not board.rows:
        st.info("No run matches. Clear the words or the states above.")
        return
    actions = st.container(horizontal=True, vertical_alignment="center")
    rows = _chosen_rows(board, columns)
    _actions(actions, board, rows)
    st.caption(
        "Bold: the best of a column. Shaded: not told apart from the best by their 95 % intervals; of twenty columns, "
        "at most one lacks its best model among the shaded ones. Only runs that were measured alike share a column."
    )
    if rows:
        with st.container(border=True):
            st.subheader("Tags and notes")
            change_labels([row.summary for row in rows])
    with st.expander("Parallel coordinates", on_change="rerun", key="parallel") as expander:
        if expander.open:
            _parallel(board.rows[:_LINES], columns)


def _filter() -> tuple[Leaderboard, list[Column]]:
    """The rows that match, favourites first, and the columns of the chosen group."""
    first, second, third, fourth = st.columns([2.6, 1.8, 4, 1.6], vertical_alignment="bottom")
    words = first.text_input("Words in the id, profile, dataset, tags or failure", key="words", max_chars=200,
                             bind="query-params").lower().split()  # fmt: skip
    states = second.multiselect("State", _STATES, key="states", bind="query-params")
    group = third.segmented_control("Metrics", [*(group.value for group in Group), _ALL], key="group",
                                    default=Group.HEADLINE.value, required=True, bind="query-params")  # fmt: skip
    archived = fourth.toggle("Archived", key="archived", help="Show archived runs too.", bind="query-params")
    board = runs.board_with_archived() if archived else runs.board()
    rows = [
        row
        for row in board.rows
        if (not states or row.summary.run.state.value in states)
        and all(word in _searchable(row.summary) for word in words)
    ]
    rows.sort(key=lambda row: runs.FAVOURITE not in row.summary.tags)
    columns = [c for c in board.columns if group in (_ALL, c.group.value)] or list(board.columns)
    shown = [column for column in columns if any(column.key in row.scores for row in rows)]
    return Leaderboard(tuple(shown), tuple(rows)), shown


def _searchable(summary: RunSummary) -> str:
    run, tags = summary.run, " ".join(summary.tags)
    return f"{run.id} {run.profile} {summary.dataset_source} {tags} {run.failure}".lower()


def _chosen_rows(board: Leaderboard, columns: Sequence[Column]) -> list[Row]:
    """Draw the table; the rows that are selected."""
    campaign, rates = votes.newest_win_rates()
    about = _About(rates, database().runs.warnings(), runs.changes(), runs.first_pictures())
    frame = _table(board.rows, columns, about)
    empty = [name for name in ("★", "Picture", "Win rate", "Warnings", "Changed keys", "Tags", "Failure")
             if not frame[name].fillna("").astype(str).str.len().any()]  # fmt: skip
    config = _column_config(columns, f"Win rate in {campaign}" if campaign else "Win rate")
    shades = _shades(board, columns)
    # pandas makes HTML of each row that it does not hide, which nobody sees; Streamlit shows them all, and of the cells
    # that have an id (the shaded ones) it asks for pandas' text.
    styled = Styler(frame.drop(columns=empty), cell_ids=False).apply(lambda _: shades, axis=None, subset=[*shades])
    # At every cell, pandas looks for the row's number: in a list, as `hide` makes it, that takes longer than the HTML.
    hidden = frozenset(shades.index[~shades.astype(bool).any(axis=1)])
    styled.hidden_rows = hidden  # pyright: ignore[reportAttributeAccessIssue]
    ids = frame["Run"].tolist()
    selected = st.dataframe(
        styled, hide_index=True, on_select="rerun",
        alt="Every run, favourites first, then the newest",
        selection_mode="multi-row", key=_key(ids), selection_default=_selection(ids), column_config=config,
        row_height=_ROW_HEIGHT, placeholder="", height=min(_ROW_HEIGHT * (len(frame) + 1), 620),
    )  # fmt: skip
    rows = [board.rows[row] for row in selected.selection.rows]
    st.session_state[_CHOSEN] = [row.summary.run.id for row in rows]
    return rows


def _key(ids: Sequence[str]) -> str:
    """The key of a table with these runs: Streamlit keeps positions of rows, which are other runs in another table."""
    return f"chosen_runs-{sha256_bytes(' '.join(ids).encode())[:16]}"


def _selection(ids: Sequence[str]) -> DataframeStateInput:
    """The runs that were selected before rows came, went or moved."""
    chosen = st.session_state.get(_CHOSEN, [])
    return {"selection": {"rows": [row for row, run_id in enumerate(ids) if run_id in chosen]}}


def _shades(board: Leaderboard, columns: Sequence[Column]) -> pd.DataFrame:
    """The style of each cell of the metrics' columns."""
    worse = Place.WORSE
    return pd.DataFrame(
        {
            column.title: [_SHADES.get(row.places.get(column.key, worse), "") for row in board.rows]
            for column in columns
        },
        dtype=object,
    )


@dataclass(frozen=True, slots=True)
class _About:
    """What is shown of runs beside their scores, by run id."""

    win_rates: Mapping[str, WinRate]
    warnings: Mapping[str, Sequence[str]]
    changes: Mapping[str, Mapping[str, str]]
    pictures: Mapping[str, str]


def _table(rows: Sequence[Row], columns: Sequence[Column], about: _About) -> pd.DataFrame:
    summaries = [row.summary for row in rows]
    ids = [summary.run.id for summary in summaries]
    rates, pictures = [about.win_rates.get(run_id) for run_id in ids], [about.pictures.get(run_id) for run_id in ids]
    changes: list[Mapping[str, str]] = [about.changes.get(run_id, {}) for run_id in ids]
    seconds = [summary.seconds for summary in summaries]
    return pd.DataFrame(
        {
            "Run": ids,
            "★": ["★" if runs.FAVOURITE in summary.tags else "" for summary in summaries],
            "State": [summary.run.state.value for summary in summaries],
            "Picture": [f"./pictures/{picture}/256.webp" if picture else None for picture in pictures],
            **{column.title: _values(rows, column) for column in columns},
            "Win rate": [rate.value * 100 if rate else None for rate in rates],
            "Warnings": [", ".join(about.warnings.get(run_id, ())) for run_id in ids],
            "Changed keys": [", ".join(f"{key}={value}" for key, value in changed.items()) for changed in changes],
            "Minutes": [None if second is None else second / 60 for second in seconds],
            "Started": [summary.run.started_at for summary in summaries],
            "Dataset": [summary.dataset_source for summary in summaries],
            "Tags": [" ".join(tag for tag in summary.tags if tag != runs.FAVOURITE) for summary in summaries],
            "Failure": [summary.run.failure for summary in summaries],
        }
    )


def _values(rows: Sequence[Row], column: Column) -> list[float | None]:
    scores = [row.scores.get(column.key) for row in rows]
    return [score and score.value for score in scores]


def _column_config(columns: Sequence[Column], win_rate: str) -> dict[str, ColumnConfig]:
    number = st.column_config.NumberColumn
    return {
        "★": st.column_config.TextColumn("★", width=30, help="Favourite"),
        "Run": st.column_config.TextColumn(pinned=True, width=150),
        "Picture": st.column_config.ImageColumn(width=60),
        "Win rate": number(win_rate, format="%.0f %%", help="The share of comparisons won in the newest campaign."),
        "Minutes": number("Duration (min)", format="%.1f"),
        "Started": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm"),
        **{column.title: number(format=f"%.{column.decimals}f", help=_describe(column)) for column in columns},
    }


def _describe(column: Column) -> str:
    measured = column.key.measurement
    reference = f", compared with {measured.reference}" if measured.reference else ""
    return f"Measured by {measured.extractor}, version {measured.version}{reference}; {column.runs} runs."


def _actions(place: DeltaGenerator, board: Leaderboard, rows: Sequence[Row]) -> None:
    """What can be done with the selected runs; it stands above the table, so that it is always in sight."""
    names = [contender(row.summary.run.id, runs.trained_variant(row.summary.run.id).value) for row in rows]
    names = [name for name in names if name in runs.models()]
    with place:
        if 2 <= len(names) <= MOST_COMPARED:
            link("compare", f"Compare ({len(names)})", model=names)
        elif len(names) > MOST_COMPARED:
            st.text(f"Choose at most {MOST_COMPARED} runs to compare them.")
        elif not rows:
            st.text(f"{len(board.rows)} run{'' if len(board.rows) == 1 else 's'}. Select rows to open or compare them.")
        for row in rows[:3]:
            link("run", f"Open {short_name(row.summary.run.id)}", id=row.summary.run.id)
        st.download_button("CSV", lambda: leaderboard_csv(board), "leaderboard.csv", "text/csv", on_click="ignore")


def _parallel(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    points: list[charts.Row] = []
    axes = [column for column in columns if column.better and sum(column.key in row.scores for row in rows) > 1]
    if len(axes) < 2:
        st.text("It needs at least two metrics of at least two runs.")
        return
    for column in axes:
        values = {row.summary.run.id: row.scores[column.key].value for row in rows if column.key in row.scores}
        low, high = min(values.values()), max(values.values())
        for run_id, value in values.items():
            share = 0.5 if low == high else (value - low) / (high - low)
            place = share if column.better > 0 else 1 - share
            points.append({"name": run_id, "axis": column.title, "place": place, "value": f"{value:.4g}"})
    colour = charts.run_colour([row.summary.run.id for row in rows], runs.colours())
    titles = [column.title for column in axes]
    chart = charts.parallel_coordinates(points, titles, colour, title="worst to best of these runs")
    charts.show(chart)
