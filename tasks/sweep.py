"""The results of a sweep, from the features of its runs that are done, and the next setting of a search."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from naruto_core.artifacts import Layout
from naruto_core.domain import Run, RunState
from naruto_core.errors import NarutoError
from naruto_core.scoring.metrics import decimals, find_metric
from naruto_core.scoring.sweep_results import RunValue, SettingResult, run_value, sweep_results
from naruto_core.search import FinishedTrial, propose
from naruto_core.settings import read_settings
from naruto_core.store.database import Database, open_database
from naruto_core.store.sweeps import RecordedCell, RecordedSweep
from naruto_core.sweep import SearchSection
from naruto_core.training.checkpoint_selection import preview_scores
from tasks.context import RunContext, TaskContext, recorded_run, with_run
from tasks.features import run_features
from tasks.results import features_key, keep_result, read_result


@dataclass(frozen=True, slots=True)
class SweepReport:
    """A sweep with its results, setting by setting.

    `values` are the objective of each done run, by position of the cell; `faults` say of a run why it has none.
    """

    sweep: RecordedSweep
    results: list[SettingResult]
    values: Mapping[int, float]
    faults: Mapping[int, str]


def report_sweep(name: str) -> SweepReport:
    """What the runs of a sweep that are done say. Raises NotRecorded for an unknown sweep.

    The value of a run is kept, so that asking again reads no features; the results are kept for the dashboard. Settings
    of a search that are still to come count in Holm's procedure as well.
    """
    with open_database(read_settings().database_url) as database:
        sweep = database.sweeps.sweep(name)
        values, faults = _values(database, sweep)
        report = SweepReport(sweep, _results(sweep, values), {p: run.value for p, run in values.items()}, faults)
        if (kept := _as_json(report)) != sweep.report:
            database.sweeps.keep_report(name, kept)
    return report


def _as_json(report: SweepReport) -> dict[str, object]:
    """What the dashboard shows, which computes nothing: it cannot import what measures."""
    metric = find_metric(report.sweep.objective)
    return {
        "states": report.sweep.states,
        "settings": [asdict(result) for result in report.results],
        "values": {str(position): value for position, value in report.values.items()},
        "better": metric.better if metric else 0,
        "decimals": decimals(report.sweep.objective),
    }


def _results(sweep: RecordedSweep, values: Mapping[int, RunValue]) -> list[SettingResult]:
    to_come = sweep.n_settings - len(sweep.settings)
    by_setting: list[dict[int, RunValue]] = [{} for _ in range(sweep.n_settings)]
    pending = [False] * len(sweep.settings) + [True] * to_come
    pruned = [False] * sweep.n_settings
    for recorded in sweep.cells:
        cell = recorded.cell
        pending[cell.setting] |= recorded.is_pending
        pruned[cell.setting] |= recorded.pruned
        if cell.position in values:
            by_setting[cell.setting][cell.seed] = values[cell.position]
    return sweep_results(by_setting, _better(sweep), pending, pruned, searched=bool(sweep.search))[
        : len(sweep.settings)
    ]


def next_values(name: str, search: SearchSection) -> dict[str, object]:
    """The values that the search of the sweep called `name` tries next, by what its settings so far came to."""
    with open_database(read_settings().database_url) as database:
        sweep = database.sweeps.sweep(name)
        values, _ = _values(database, sweep)
        trials = [_trial(database, sweep, number, values) for number in range(len(sweep.settings))]
    return propose(search, trials, _better(sweep))


def _trial(database: Database, sweep: RecordedSweep, setting: int, values: Mapping[int, RunValue]) -> FinishedTrial:
    """A setting as the search learns from it: the mean of its seeds, or the previews of the run that was pruned."""
    own = [recorded for recorded in sweep.cells if recorded.cell.setting == setting]
    of_seeds = [values[recorded.cell.position].value for recorded in own if recorded.cell.position in values]
    mean = sum(of_seeds) / len(of_seeds) if of_seeds else None
    if not any(recorded.pruned for recorded in own):
        return FinishedTrial(sweep.settings[setting], mean)
    ended = [recorded.run for recorded in own if recorded.run and recorded.run.state is RunState.PRUNED]
    previews = preview_scores(database.runs.steps(ended[-1].id)) if ended else {}
    return FinishedTrial(sweep.settings[setting], mean, pruned=True, previews=previews)


def _better(sweep: RecordedSweep) -> int:
    metric = find_metric(sweep.objective)
    return metric.better if metric else 0


def _values(database: Database, sweep: RecordedSweep) -> tuple[dict[int, RunValue], dict[int, str]]:
    """The objective of each run that is done, and why it has none, by position of the cell."""
    settings = read_settings()
    context = TaskContext(settings, Layout(settings.root, settings.store), database.runs)
    values: dict[int, RunValue] = {}
    faults: dict[int, str] = {}
    for recorded in sweep.cells:
        if (run := _done(recorded)) is None:
            continue
        try:
            values[recorded.cell.position] = _value(context, run, sweep.objective)
        except NarutoError as error:
            faults[recorded.cell.position] = str(error)
    return values, faults


def _done(recorded: RecordedCell) -> Run | None:
    return recorded.run if recorded.run is not None and recorded.run.state is RunState.DONE else None


def _value(context: TaskContext, run: Run, objective: str) -> RunValue:
    opened = with_run(context, recorded_run(context, run.id))
    key = ["run value", objective, features_key(context.store, run)]
    kept = read_result(context.layout, key)
    if kept is None:
        kept = asdict(_measured(opened, objective))
        keep_result(context.layout, key, kept)
    return RunValue(kept["value"], tuple(kept["pseudo_values"]), tuple(kept["prompts"]))


def _measured(context: RunContext, objective: str) -> RunValue:
    return run_value(run_features(context), objective)
