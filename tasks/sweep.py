"""The results of a sweep, from the features of its runs that are done. Nothing here needs Prefect."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from naruto_core.artifacts import Layout
from naruto_core.domain import Run, RunState
from naruto_core.errors import NarutoError
from naruto_core.scoring.metrics import find_metric
from naruto_core.scoring.sweep_results import RunValue, SettingResult, run_value, sweep_results
from naruto_core.settings import read_settings
from naruto_core.store.database import open_database
from naruto_core.store.sweeps import RecordedSweep
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

    The value of a run is kept, so that asking again reads no features.
    """
    settings = read_settings()
    with open_database(settings.database_url) as database:
        sweep = database.sweeps.sweep(name)
        context = TaskContext(settings, Layout(settings.root), database.runs)
        values: dict[int, RunValue] = {}
        faults: dict[int, str] = {}
        for recorded in sweep.cells:
            if recorded.run is None or recorded.run.state is not RunState.DONE:
                continue
            try:
                values[recorded.cell.position] = _value(context, recorded.run, sweep.objective)
            except NarutoError as error:
                faults[recorded.cell.position] = str(error)
    by_setting: list[dict[int, RunValue]] = [{} for _ in {recorded.cell.setting for recorded in sweep.cells}]
    pending = [False] * len(by_setting)
    for recorded in sweep.cells:
        cell = recorded.cell
        pending[cell.setting] |= recorded.is_pending
        if cell.position in values:
            by_setting[cell.setting][cell.seed] = values[cell.position]
    metric = find_metric(sweep.objective)
    results = sweep_results(by_setting, metric.better if metric else 0, pending)
    return SweepReport(sweep, results, {position: run.value for position, run in values.items()}, faults)


def _value(context: TaskContext, run: Run, objective: str) -> RunValue:
    opened = with_run(context, recorded_run(context, run.id))
    key = ["run value", objective, features_key(opened)]
    kept = read_result(context.layout, key)
    if kept is None:
        kept = asdict(_measured(opened, objective))
        keep_result(context.layout, key, kept)
    return RunValue(kept["value"], tuple(kept["pseudo_values"]), tuple(kept["prompts"]))


def _measured(context: RunContext, objective: str) -> RunValue:
    return run_value(run_features(context), objective)
