"""Sweeps: which runs belong together, and how far each of them is."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Text, false, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from naruto_core.domain import Run, RunState
from naruto_core.errors import NotRecorded, RecipeInvalid
from naruto_core.store.connection import Repository
from naruto_core.store.schema import Base, RunRow

if TYPE_CHECKING:
    from naruto_core.sweep import Cell, SweepFile

NOT_STARTED = "not started"


class SweepRow(Base):
    __tablename__ = "sweeps"

    name: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    recipe: Mapped[str]
    objective: Mapped[str]
    created_at: Mapped[datetime]
    trials: Mapped[int] = mapped_column(server_default="0")
    search: Mapped[dict[str, Any]] = mapped_column(JSON, server_default="{}")
    report: Mapped[dict[str, Any]] = mapped_column(JSON, server_default="{}")


class SweepCellRow(Base):
    __tablename__ = "sweep_cells"

    sweep: Mapped[str] = mapped_column(ForeignKey("sweeps.name"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    setting: Mapped[int]
    grid_values: Mapped[dict[str, Any]] = mapped_column(JSON)
    seed: Mapped[int] = mapped_column(BigInteger)
    fingerprint: Mapped[str]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), index=True)
    failure: Mapped[str] = mapped_column(Text, server_default="")
    pruned: Mapped[bool] = mapped_column(server_default=false())


@dataclass(frozen=True, slots=True)
class RecordedCell:
    """A cell with its run, as far as there is one. `failure` is why it has none, or why it did not finish.

    `pruned`: the sweep ended its setting early, whether or not this cell's run began. `is_recorded`: the sweep itself
    had this run; else it is the newest run with the cell's recipe.
    """

    cell: "Cell"
    run: Run | None
    failure: str
    pruned: bool = False
    is_recorded: bool = False

    @property
    def state(self) -> str:
        """The run's state; without a run pruned, failed or "not started"."""
        if self.run is not None:
            return self.run.state
        if self.pruned:
            return RunState.PRUNED
        return RunState.FAILED if self.failure else NOT_STARTED

    @property
    def is_over(self) -> bool:
        """Whether the same command leaves it alone: the sweep has trained it to its end, or pruned its setting."""
        return self.pruned or (self.is_recorded and self.state == RunState.DONE)

    @property
    def is_pending(self) -> bool:
        """Whether the same command would still work on it: neither done, failed, deleted nor pruned."""
        return not self.pruned and self.state not in (RunState.DONE, RunState.FAILED, RunState.DELETED)


@dataclass(frozen=True, slots=True)
class RecordedSweep:
    """A sweep and its cells in order; `recipe` is the profile or the path that the file named.

    `search` are the ranges of a search by key, as in the file, and `trials` how many settings it tries in all; {} and 0
    of a grid. `report` are the results as they were computed last, as JSON (see `tasks.sweep`); {} before the first.
    """

    name: str
    recipe: str
    objective: str
    created_at: datetime
    cells: tuple[RecordedCell, ...]
    trials: int = 0
    search: Mapping[str, Any] = field(default_factory=dict[str, Any])
    report: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def settings(self) -> tuple[Mapping[str, Any], ...]:
        """The values of each setting that is recorded, in order."""
        values = {recorded.cell.setting: recorded.cell.values for recorded in self.cells}
        return tuple(values[number] for number in sorted(values))

    @property
    def states(self) -> list[str]:
        """The state of each cell, in order: results were computed from these."""
        return [str(recorded.state) for recorded in self.cells]

    @property
    def n_settings(self) -> int:
        """The settings of a grid; of a search those that it will have tried at its end."""
        return max(self.trials, len(self.settings))


class Sweeps(Repository):
    """Sweeps and their cells."""

    def open_sweep(
        self, file: "SweepFile", cells: "Sequence[Cell]", fingerprints: Sequence[str], now: datetime
    ) -> None:
        """Record a sweep with the cells that are known, unless it is recorded; `fingerprints` are of their recipes.

        Raises RecipeInvalid when the name is used by a sweep of other runs, or with another objective.
        """
        from naruto_core.sweep import sweep_digest  # imports slowly, and most commands read no sweep

        digest, search = sweep_digest(file, fingerprints), file.search
        with self._writing() as session:
            row = session.get(SweepRow, file.name)
            if row is None:
                session.add(
                    SweepRow(
                        name=file.name,
                        digest=digest,
                        recipe=file.recipe,
                        objective=file.objective,
                        created_at=now,
                        trials=search.trials if search else 0,
                        search=search.model_dump(mode="json")["ranges"] if search else {},
                    )
                )
                session.flush()
                _add_cells(session, file.name, cells, fingerprints)
            elif row.digest != digest:
                raise RecipeInvalid(
                    f"the sweep {file.name} of {row.created_at:%Y-%m-%d} has other runs or another objective: give the "
                    "changed file another name. Runs that both have are not made again."
                )

    def add_setting(self, name: str, cells: "Sequence[Cell]", fingerprints: Sequence[str]) -> None:
        """Record the cells of a further setting of a search; where another process was first, its cells stay."""
        with self._writing() as session:
            if session.get(SweepRow, name) is None:
                raise NotRecorded(f"there is no sweep {name!r}.")
            if session.get(SweepCellRow, (name, cells[0].position)) is None:
                _add_cells(session, name, cells, fingerprints)

    def keep_report(self, name: str, report: Mapping[str, Any]) -> None:
        """Keep the results of a sweep, which pages show without computing them."""
        with self._writing() as session:
            row = session.get(SweepRow, name)
            if row is not None:
                row.report = dict(report)

    def prune_setting(self, name: str, setting: int) -> None:
        """Record that no run of a setting goes on. Runs that are done stay done."""
        with self._writing() as session:
            own = SweepCellRow.sweep == name, SweepCellRow.setting == setting
            for row in session.scalars(select(SweepCellRow).where(*own)):
                row.pruned, run = True, _run_of(session, row)
                row.run_id = run.id if run else None

    def record_cell(self, name: str, position: int, run_id: str | None, failure: str) -> None:
        """Record the run of a cell, and why it failed ("" where it did not)."""
        with self._writing() as session:
            row = session.get(SweepCellRow, (name, position))
            if row is None:
                raise NotRecorded(f"the sweep {name} has no cell {position}.")
            run = _run_of(session, row)
            row.run_id, row.failure = run_id or (run.id if run else None), failure

    def sweep(self, name: str) -> RecordedSweep:
        """The sweep called `name`. Raises NotRecorded, which names the nearest."""
        with self._reading() as session:
            row = session.get(SweepRow, name)
            if row is None:
                names = list(session.scalars(select(SweepRow.name)))
                nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
                hint = f"the nearest is {nearest[0]}" if nearest else "start one with  naruto sweep FILE"
                raise NotRecorded(f"there is no sweep {name!r}: {hint}.")
            return _recorded(session, row)

    def sweeps(self) -> list[RecordedSweep]:
        """Every sweep, newest first."""
        with self._reading() as session:
            rows = session.scalars(select(SweepRow).order_by(SweepRow.created_at.desc(), SweepRow.name))
            return [_recorded(session, row) for row in rows]


def _recorded(session: Session, row: SweepRow) -> RecordedSweep:
    from naruto_core.sweep import Cell

    query = select(SweepCellRow).where(SweepCellRow.sweep == row.name).order_by(SweepCellRow.position)
    cells: list[RecordedCell] = []
    for of_cell in session.scalars(query):
        run = _run_of(session, of_cell)
        cell = Cell(of_cell.position, of_cell.setting, of_cell.grid_values, of_cell.seed)
        cells.append(
            RecordedCell(
                cell=cell,
                run=run.to_domain() if run else None,
                failure=of_cell.failure,
                pruned=of_cell.pruned,
                is_recorded=of_cell.run_id is not None,
            )
        )
    return RecordedSweep(
        name=row.name,
        recipe=row.recipe,
        objective=row.objective,
        created_at=row.created_at,
        cells=tuple(cells),
        trials=row.trials,
        search=row.search,
        report=row.report,
    )


def _add_cells(session: Session, name: str, cells: "Sequence[Cell]", fingerprints: Sequence[str]) -> None:
    session.add_all(
        SweepCellRow(
            sweep=name,
            position=cell.position,
            setting=cell.setting,
            grid_values=dict(cell.values),
            seed=cell.seed,
            fingerprint=fingerprint,
        )
        for cell, fingerprint in zip(cells, fingerprints, strict=True)
    )


def _run_of(session: Session, row: SweepCellRow) -> RunRow | None:
    """The cell's run; before it is recorded, the newest run with its recipe."""
    if row.run_id is not None:
        return session.get(RunRow, row.run_id)
    same = select(RunRow).where(RunRow.fingerprint == row.fingerprint)
    return session.scalar(same.order_by(RunRow.started_at.desc(), RunRow.id).limit(1))
