"""The page Overview: the champion and how good it is, what is running, what needs attention, the metric over runs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import streamlit as st

from dashboard import charts
from dashboard.live_progress import show_progress
from dashboard.navigation import link, short_name
from dashboard.queries import runs, serving, votes
from dashboard.queries.database import database
from dashboard.queries.thumbnails import thumbnail
from naruto_core.domain import RunState, Variant
from naruto_core.errors import amount
from naruto_core.judging.campaign_plan import contender
from naruto_core.judging.decision import WinRate
from naruto_core.ratings import Promotion
from naruto_core.report.attention import Attention, Champion, Subject, attention
from naruto_core.report.leaderboard import Column, HeadlineRow, Leaderboard, Place, Row, anchor, headline_rows
from naruto_core.report.score_table import short_number
from naruto_core.store.promotions import CHAMPION
from naruto_core.store.queries import RunSummary

HEADLINE_LEGEND = (
    "Base: the model before training. Trained: the same model after it. Real: pictures of the dataset. ↓ less is "
    "better, ↑ more is better. In brackets the 95 % interval of the difference; undecided: it may go in either "
    "direction. n: pictures of the trained model."
)
_PICTURES = 4
_ITEMS = 6  # that need attention
_RUNS = 20  # in the chart
_CAMPAIGNS = 5  # whose progress is looked at


def show() -> None:
    st.title("Overview")
    board = runs.board()
    if not board.rows:
        st.info("There is no run yet. Type `make demo` in a terminal, wait some minutes, then reload this page.")
        st.text(f"This dashboard reads {runs.home()}; set NARUTO_HOME to read another folder.")
        return
    history = database().ratings.promotions(CHAMPION)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        _best_run(board, history)
    with right:
        _running([row.summary for row in board.rows])
        _attention(board, history)
    _over_runs(board)
    _newest(board, history)


def _best_run(board: Leaderboard, history: Sequence[Promotion]) -> None:
    """The champion, or the run that is best by the first headline metric where there is none."""
    rows = {row.summary.run.id: row for row in board.rows}
    champion = rows.get(history[0].run_id) if history else None
    best, column = best_run(board)
    shown = champion or best
    with st.container(border=True):
        if shown is None:
            st.subheader("No champion")
            st.text("No run has scores yet. A run is scored at its end.")
            return
        run_id = shown.summary.run.id
        if champion:
            st.subheader(f"Champion {short_name(run_id)}")
            why = history[0].why if len(history[0].why) <= 160 else history[0].why[:159] + "…"
            st.text(f"{history[0].by}, {history[0].at:%Y-%m-%d}: {why}")
        else:
            st.subheader(f"Best run {short_name(run_id)}")
            st.text(f"No run is the champion.{_best_by(board, column) if column else ''}")
        headline, rate = headline_rows(shown.summary.scores), votes.win_rate_over_base(run_id)
        _pictures(run_id)
        _headline(headline, rate)
        with st.container(horizontal=True):
            link("run", "Open this run", id=run_id)
            link("deploy", "Champion and history")


def _best_by(board: Leaderboard, column: Column) -> str:
    tied = sum(row.places.get(column.key) is Place.TIED for row in board.rows)
    others = f"; {tied} other run{'s are' if tied > 1 else ' is'} not told apart from it" if tied else ""
    return f" This one has the best {column.title}{others}."


def best_run(board: Leaderboard) -> tuple[Row | None, Column | None]:
    """The run that is best in the first headline column in which several are measured; else the newest scored run."""
    for column in board.columns:
        best = next((row for row in board.rows if row.places.get(column.key) is Place.BEST), None)
        if column.headline and best:
            return best, column
    return next((row for row in board.rows if row.scores), None), None


def _pictures(run_id: str) -> None:
    """The first seed of prompts spread over the suite."""
    suite, drawn = runs.prompts(run_id), runs.samples_of(run_id, runs.trained_variant(run_id))
    if not suite or not drawn:
        return
    texts = {prompt.slug: prompt.text for prompt in suite.prompts}
    first = min(sample.seed for sample in drawn)
    by_prompt = {sample.prompt: sample for sample in drawn if sample.seed == first}
    ordered = [by_prompt[slug] for slug in texts if slug in by_prompt]
    chosen = ordered[:: max(1, len(ordered) // _PICTURES)][:_PICTURES]
    files = [(path.read_bytes(), sample) for sample in chosen if (path := thumbnail(sample.sha256, "256"))]
    if files:  # as one list, they stand in two rows on a phone
        st.image([data for data, _ in files], width=125, alt=[texts[sample.prompt] for _, sample in files])


def _headline(rows: Sequence[HeadlineRow], rate: WinRate | None) -> None:
    lines = [headline_line(row) for row in rows]
    if rate:
        word = "better" if rate.low > 0.5 else "worse" if rate.high < 0.5 else "undecided"
        lines.append({
            "Metric": "human win rate over the base ↑", "Base": "", "Trained": f"{rate.value:.0%}", "Real": "",
            "Trained − base": f"{rate.low:.1%} to {rate.high:.1%}, "
                              f"n = {amount(rate.votes, 'vote')}", "": word,
        })  # fmt: skip
    if lines:
        st.table(lines, hide_index=True, border="horizontal", alt="Headline metrics of this run")
        st.caption(HEADLINE_LEGEND)
    if not rate:
        st.caption("Nobody has compared it with its base yet.")


def headline_line(row: HeadlineRow) -> dict[str, str]:
    """A headline metric as a line of a table."""
    arrow = {-1: " ↓", 0: "", 1: " ↑"}[row.better]
    values = (
        "" if score is None else short_number(score.value, row.metric) for score in (row.base, row.trained, row.real)
    )
    change = ""
    if row.change:
        value, low, high = (None if end is None else _signed(end, row.metric) for end in row.change)
        change = f"{value} (no interval)" if low is None else f"{value} ({low} to {high})"
    if row.trained:  # no column of its own: the table is as wide as a phone
        change = f"{change}, n = {row.trained.n:,}".removeprefix(", ")
    return {"Metric": f"{row.title}{arrow}"} | dict(
        zip(("Base", "Trained", "Real", "Trained − base", ""), (*values, change, row.word), strict=True)
    )


def _signed(value: float, metric: str) -> str:
    text = short_number(value, metric)
    return text if text.startswith("-") else f"+{text}"


def _running(summaries: Sequence[RunSummary]) -> None:
    running = [summary.run for summary in summaries if summary.run.state is RunState.RUNNING]
    with st.container(border=True):
        st.subheader("Running")
        if running:
            show_progress(running)
        else:
            st.text("No run is running.")


def _attention(board: Leaderboard, history: Sequence[Promotion]) -> None:
    champion = None
    if history:
        run_id = history[0].run_id
        fault = runs.promotion_fault(run_id)
        champion = Champion(run_id, fault, database().runs.findings(run_id))
    progress = [(c, database().ratings.progress(c.id)) for c in votes.campaigns(open_only=True)[:_CAMPAIGNS]]
    items = attention(board, champion, runs.abandoned(), serving.drifts(), progress, datetime.now(UTC))
    with st.container(border=True):
        st.subheader("Needs attention")
        if not items:
            st.text("Nothing.")
        for number, item in enumerate(items[:_ITEMS]):
            _item(item, number)
        if len(items) > _ITEMS:
            st.text(f"{len(items) - _ITEMS} more.")


def _item(item: Attention, number: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key=f"attention-{number}"):
        st.text(item.sentence)
        if item.subject is Subject.RUN:
            link("run", "Open", id=item.id)
        elif item.subject is Subject.CAMPAIGN:
            link("campaigns", "Open", campaign=item.id)
        else:
            link("deploy", "Open")


def _over_runs(board: Leaderboard) -> None:
    columns = {column.title: column for column in board.columns if column.headline and column.better}
    columns = columns or {column.title: column for column in board.columns[:1]}
    if not columns:
        return
    st.subheader("Metric over runs")
    title = st.segmented_control("Metric", list(columns), default=next(iter(columns)), required=True, key="metric",
                                 label_visibility="collapsed", bind="query-params")  # fmt: skip
    column = columns[title or next(iter(columns))]
    measured = [row for row in board.rows if column.key in row.scores][:_RUNS][::-1]
    rows = [_point(row, column) for row in measured]
    anchors = _anchors(measured[-1].summary, column)
    charts.show(charts.metric_over_runs(rows, anchors, column.title, runs.colours()))


def _point(row: Row, column: Column) -> charts.Row:
    score, run_id = row.scores[column.key], row.summary.run.id
    low, high = score.interval or (None, None)
    return {"run": run_id, "name": short_name(run_id), "value": score.value, "low": low, "high": high}


def _anchors(summary: RunSummary, column: Column) -> list[charts.Row]:
    """The base and real pictures, as the newest run measured them."""
    names: Mapping[Variant, str] = {Variant.BASE: "base", Variant.REAL: "real pictures"}
    anchors = ((name, anchor(summary.scores, column.key, variant)) for variant, name in names.items())
    return [{"name": name, "value": score.value} for name, score in anchors if score]


def _newest(board: Leaderboard, history: Sequence[Promotion]) -> None:
    """The newest runs, each with a link to compare it with the champion or with the best run."""
    best, _ = best_run(board)
    other = history[0].run_id if history else best.summary.run.id if best else ""
    st.subheader("Newest runs")
    for row in board.rows[:5]:
        run_id = row.summary.run.id
        with st.container(horizontal=True, vertical_alignment="center"):
            link("run", short_name(run_id), tooltip=run_id, id=run_id)
            st.text(f"{row.summary.run.state.value}, {row.summary.run.started_at:%Y-%m-%d %H:%M} UTC")
            if other not in ("", run_id):
                names = [contender(name, runs.trained_variant(name).value) for name in (other, run_id)]
                if all(name in runs.models() for name in names):
                    link("compare", f"Compare with {short_name(other)}", model=names)
