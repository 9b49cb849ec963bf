"""Leases of runs: which process works on a run, for how long, and a request that it stops.

A run has one owner at a time, also where several machines share the database. The owner writes a heartbeat; a lease
whose heartbeat is older than `LEASE_SECONDS` is over, and one of a process of this host that has ended is over at once.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import ForeignKey, Index, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from naruto_core.artifacts import host_id
from naruto_core.domain import Run, RunLease, RunState
from naruto_core.errors import NotRecorded
from naruto_core.store.connection import Repository
from naruto_core.store.schema import Base, RunRow, run_row

LEASE_SECONDS = 90.0  # clocks of machines that share a database may differ by less than this
HEARTBEAT_SECONDS = 15.0


class LeaseRow(Base):
    __tablename__ = "run_leases"
    __table_args__ = (Index(None, "run_id", "released_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    owner: Mapped[str]
    host: Mapped[str]
    process: Mapped[int]
    threads: Mapped[int]
    cpu: Mapped[str] = mapped_column(server_default="")
    began_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    released_at: Mapped[datetime | None]
    waited_seconds: Mapped[float] = mapped_column(server_default="0")
    stop_requested_by: Mapped[str] = mapped_column(server_default="")

    def to_domain(self) -> RunLease:
        return RunLease(**{name: getattr(self, name) for name in RunLease.__slots__})


@dataclass(frozen=True, slots=True)
class LeaseOwner:
    """A process: `id` is of its host, its number and its start, so that no other process ever has it."""

    id: str
    host: str
    process: int


def this_process() -> LeaseOwner:
    """The process that calls this."""
    pid = os.getpid()
    return LeaseOwner(f"{host_id()}:{pid}:{_started(pid)}", socket.gethostname(), pid)


class RunLeases(Repository):
    """Leases of runs. Several leases of a run follow each other; at most one is live."""

    def acquire_lease(self, run_id: str, owner: LeaseOwner, threads: int, now: datetime, cpu: str = "") -> RunLease:
        """The live lease of a run: that of another process, or else `owner`'s, which begins where there was none.

        `threads` is the number of CPU threads that the owner computes with, `cpu` describes its CPU.
        Raises NotRecorded for an unknown run.
        """
        with self._writing() as session:
            run_row(session, run_id)
            live = _live(session, run_id, now)
            if live is None:
                for dead in session.scalars(_unreleased(run_id)):
                    dead.released_at = dead.heartbeat_at  # so long it worked, as far as is known
                live = LeaseRow(
                    run_id=run_id, owner=owner.id, host=owner.host, process=owner.process, threads=threads, cpu=cpu,
                    began_at=now, heartbeat_at=now, waited_seconds=0.0, stop_requested_by="",
                )  # fmt: skip
                session.add(live)
                session.flush()
            return live.to_domain()

    def renew_lease(self, lease_id: int, now: datetime) -> RunLease:
        """Write a heartbeat, unless the lease was released or taken over meanwhile; the lease as it is recorded.

        Raises NotRecorded where the run was deleted, which this method and `read_lease` tell its process.
        """
        with self._writing() as session:
            row = _lease_row(session, lease_id)
            if row.released_at is None:
                row.heartbeat_at = now
            return row.to_domain()

    def read_lease(self, lease_id: int) -> RunLease:
        """The lease as it is recorded. NotRecorded as in `renew_lease`."""
        with self._reading() as session:
            return _lease_row(session, lease_id).to_domain()

    def release_lease(self, lease_id: int, now: datetime) -> None:
        """End a lease; one that is over, or was deleted with its run, stays as it is."""
        with self._writing() as session:
            row = session.get(LeaseRow, lease_id)
            if row is not None:
                row.released_at = row.released_at or now

    def add_lease_wait(self, lease_id: int, seconds: float) -> None:
        """Add time in which the owner waited for its device: it is not counted as work."""
        with self._writing() as session:
            _lease_row(session, lease_id).waited_seconds += seconds

    def leases(self, run_id: str) -> list[RunLease]:
        """The leases of a run, oldest first."""
        with self._reading() as session:
            rows = session.scalars(select(LeaseRow).where(LeaseRow.run_id == run_id).order_by(LeaseRow.id))
            return [row.to_domain() for row in rows]

    def live_lease(self, run_id: str, now: datetime) -> RunLease | None:
        """The lease of the process that works on the run now, or None."""
        with self._reading() as session:
            row = _live(session, run_id, now)
            return row.to_domain() if row else None

    def request_stop(self, run_id: str, by: str, now: datetime) -> RunLease | None:
        """Ask the process that works on a run to stop; its lease, or None where none works on it.

        A run that is recorded as running then, because its process was killed, is marked as cancelled.
        """
        with self._writing() as session:
            run, live = run_row(session, run_id), _live(session, run_id, now)
            if live is not None:
                live.stop_requested_by = by
                return live.to_domain()
            if run.state is RunState.RUNNING:
                run.state, run.finished_at = RunState.CANCELLED, now
                run.failure = f"its process had ended; marked as cancelled by {by}"
            return None


def live_owner(session: Session, run_id: str, now: datetime) -> str:
    """Who works on the run, as the end of a sentence; "" when nobody does."""
    live = _live(session, run_id, now)
    return f"process {live.process} on {live.host} works on it" if live else ""


def worked_seconds(leases: Sequence[RunLease], run: Run | RunRow) -> float | None:
    """The seconds that processes worked on a finished run, by its `leases`: pauses between them and waiting for a
    device are not counted, nor is what was done after its end. From start to end for a run without leases; None for a
    run that has not ended.
    """
    if run.finished_at is None:
        return None
    counted = [lease for lease in leases if lease.began_at <= run.finished_at]
    if not counted:
        return (run.finished_at - run.started_at).total_seconds()
    return sum(lease.seconds(run.finished_at) for lease in counted)


def _lease_row(session: Session, lease_id: int) -> LeaseRow:
    row = session.get(LeaseRow, lease_id)
    if row is None:
        raise NotRecorded("the run of this process was deleted, and the process's lease with it.")
    return row


def _unreleased(run_id: str):
    return select(LeaseRow).where(LeaseRow.run_id == run_id, LeaseRow.released_at.is_(None))


def _live(session: Session, run_id: str, now: datetime) -> LeaseRow | None:
    return next((row for row in session.scalars(_unreleased(run_id)) if not _is_over(row, now)), None)


def _is_over(row: LeaseRow, now: datetime) -> bool:
    host, _, started = row.owner.split(":", 2)
    if host == host_id() and _started(row.process) != started:
        return True
    return now - row.heartbeat_at > timedelta(seconds=LEASE_SECONDS)


def _started(pid: int) -> str:
    """When a process of this host began, in ticks since the boot; "" for one that does not run (or ended just now).

    Where there is no /proc, "?" for each process that runs.
    """
    if Path("/proc/self/stat").exists():
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return "" if fields[0] in "ZX" else fields[19]
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "?"
