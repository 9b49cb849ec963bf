"""Sweeps: which runs belong together, and how far each of them is."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Text, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from naruto_core.domain import Run, RunState
from naruto_core.errors import NotRecorded, RecipeInvalid
from naruto_core.store.connection import Repository
from naruto_core.store.schema import Base, RunRow
from naruto_core.sweep import Cell, sweep_digest

NOT_STARTED = "not started"


class SweepRow(Base):
    __tablename__ = "sweeps"

    name: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    recipe: Mapped[str]
    objective: Mapped[str]
    created_at: Mapped[datetime]


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


@dataclass(frozen=True, slots=True)
class RecordedCell:
    """A cell with its run, as far as there is one. `failure` is why it has none, or why it did not finish."""

    cell: Cell
    run: Run | None
    failure: str

    @property
    def state(self) -> str:
        """The run's state; failed or "not started" without a run."""
        if self.run is not None:
            return self.run.state
        return RunState.FAILED if self.failure else NOT_STARTED

    @property
    def is_pending(self) -> bool:
        """Whether the same command would still work on it: neither done, failed nor deleted."""
        return self.state not in (RunState.DONE, RunState.FAILED, RunState.DELETED)


@dataclass(frozen=True, slots=True)
class RecordedSweep:
    """A sweep and its cells in order; `recipe` is the profile or the path that the file named."""

    name: str
    recipe: str
    objective: str
    created_at: datetime
    cells: tuple[RecordedCell, ...]


class Sweeps(Repository):
    """Sweeps and their cells."""

    def open_sweep(
        self,
        name: str,
        recipe: str,
        objective: str,
        cells: Sequence[Cell],
        fingerprints: Sequence[str],
        now: datetime,
    ) -> None:
        """Record a sweep, unless it is recorded; `fingerprints` are those of the cells' recipes.

        Raises RecipeInvalid when the name is used by a sweep of other runs, or with another objective.
        """
        digest = sweep_digest(objective, fingerprints)
        with self._writing() as session:
            row = session.get(SweepRow, name)
            if row is None:
                session.add(SweepRow(name=name, digest=digest, recipe=recipe, objective=objective, created_at=now))
                session.flush()
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
            elif row.digest != digest:
                raise RecipeInvalid(
                    f"the sweep {name} of {row.created_at:%Y-%m-%d} has other runs or another objective: give the "
                    "changed file another name. Runs that both have are not made again."
                )

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
    query = select(SweepCellRow).where(SweepCellRow.sweep == row.name).order_by(SweepCellRow.position)
    cells: list[RecordedCell] = []
    for of_cell in session.scalars(query):
        run = _run_of(session, of_cell)
        cell = Cell(of_cell.position, of_cell.setting, of_cell.grid_values, of_cell.seed)
        cells.append(RecordedCell(cell, run.to_domain() if run else None, of_cell.failure))
    return RecordedSweep(row.name, row.recipe, row.objective, row.created_at, tuple(cells))


def _run_of(session: Session, row: SweepCellRow) -> RunRow | None:
    """The cell's run; before it is recorded, the newest run with its recipe."""
    if row.run_id is not None:
        return session.get(RunRow, row.run_id)
    same = select(RunRow).where(RunRow.fingerprint == row.fingerprint)
    return session.scalar(same.order_by(RunRow.started_at.desc(), RunRow.id).limit(1))
