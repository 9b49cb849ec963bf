"""Files, plan, processes, tags and notes of a run. A part of the page Run."""

from pathlib import Path

import streamlit as st

from dashboard.queries import runs
from dashboard.queries.database import database
from dashboard.views.run_labels import change_labels
from naruto_core.domain import PhaseRecord, RunLease, format_duration
from naruto_core.store.queries import RunSummary

_FILES = 200  # of single pictures there are thousands: folders of pictures are one line


def show(summary: RunSummary) -> None:
    """Every part of it."""
    run_id = summary.run.id
    st.subheader("Tags and notes")
    change_labels([summary])
    for note in database().runs.notes(run_id):
        st.text(f"{note.at:%Y-%m-%d}: {note.text}")
    show_plan(run_id)
    st.subheader("Processes")
    leases = database().runs.leases(run_id)
    if leases:
        processes = [_lease(lease) for lease in leases]
        st.dataframe(processes, hide_index=True, placeholder="", alt="Processes that worked on this run")
    else:
        st.text("No process is recorded.")
    st.subheader("Files")
    st.text(f"Commit {summary.git_commit or 'unknown'}; folder {runs.layout().run(run_id)}")
    lines = _files(runs.layout().run(run_id))
    if lines:
        config = {"Size": st.column_config.NumberColumn(format="bytes")}
        st.dataframe(lines, hide_index=True, alt="Files of this run", column_config=config)


def show_plan(run_id: str) -> None:
    """The plan of the run beside what its phases took."""
    if phases := runs.phases(run_id):
        st.subheader("Plan")
        st.text(f"{run_id} on {phases[0].planned.device}")
        st.table([_phase(record) for record in phases], hide_index=True, alt=f"Planned and measured time of {run_id}")


def _phase(record: PhaseRecord) -> dict[str, str]:
    plan = record.planned
    took = f"{format_duration(record.measured_seconds)} for {record.measured_units:,}"
    took += f" in {record.processes} processes" if record.processes > 1 else ""
    return {
        "Phase": plan.phase,
        "Units": f"{plan.units:,} {plan.unit}{'' if plan.units == 1 else 's'}",
        "Planned": f"{format_duration(plan.seconds)} ({plan.basis})",
        "Took": took if record.measured_units else "",
        "Memory": f"{plan.memory / 2**30:.1f} GiB" if plan.memory else "",
    }


def _lease(lease: RunLease) -> dict[str, object]:
    return {
        "Host": lease.host,
        "Process": lease.process,
        "CPU threads": lease.threads,
        "CPU instructions": lease.cpu,
        "From (UTC)": f"{lease.began_at:%Y-%m-%d %H:%M:%S}",
        "To (UTC)": f"{lease.released_at:%Y-%m-%d %H:%M:%S}" if lease.released_at else "",
        "Waited for a device (s)": round(lease.waited_seconds, 1),
        "Stopped by": lease.stop_requested_by,
    }


def _files(folder: Path) -> list[dict[str, str | int]]:
    """A line for each file, and one for each folder of pictures."""
    lines: list[dict[str, str | int]] = []
    folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())] if folder.is_dir() else []
    for inner in folders:
        files = sorted(path for path in inner.iterdir() if path.is_file() and not path.name.startswith("."))
        pictures = [path for path in files if path.suffix == ".png"]
        if len(pictures) > 3:
            name = f"{inner.relative_to(folder)}/ ({len(pictures)} pictures)"
            lines.append({"File": name, "Size": sum(path.stat().st_size for path in pictures)})
        lines += [
            {"File": path.relative_to(folder).as_posix(), "Size": path.stat().st_size}
            for path in files
            if len(pictures) <= 3 or path not in pictures
        ]
    return lines[:_FILES]
