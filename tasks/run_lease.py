"""The lease of the run that this process works on: a thread keeps it alive and sees when somebody asks to stop.

`open_run` takes the lease, `close_run` or an error ends it; between two steps of a run it is kept. A process that is
killed leaves it: see `naruto_core.store.leases` for when it is over then.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from naruto_core.domain import RunLease
from naruto_core.errors import NarutoError, NotRecorded, RunStopped
from naruto_core.settings import Settings
from naruto_core.store.database import Store, open_store
from naruto_core.store.leases import HEARTBEAT_SECONDS, this_process

_LOOK_SECONDS = 2.0  # between two looks for a request to stop
STOPPED_BY_SIGNAL = "stopped by a signal; the same command resumes it."
_WAIT_SECONDS = 1.0  # between two looks whether the other process is done


@dataclass(slots=True)
class _HeldLease:
    """A lease of this process. The thread that keeps it writes the fields; it ends with `release`."""

    lease: RunLease
    stop_reason: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    def keep(self, url: str) -> None:
        """Write heartbeats to the database at `url`, and read requests to stop, until the lease is released."""
        beat = time.monotonic()
        with suppress(NarutoError), open_store(url) as store:
            while not self.ended.wait(_LOOK_SECONDS):
                try:
                    if time.monotonic() - beat > HEARTBEAT_SECONDS:
                        recorded, beat = store.renew_lease(self.lease.id, datetime.now(UTC)), time.monotonic()
                    else:
                        recorded = store.read_lease(self.lease.id)
                except NotRecorded:
                    self.stop_reason = "somebody deleted it, because this process gave no sign of life"
                    return
                except NarutoError:  # the database is away for a while
                    continue
                if self.ended.is_set():
                    return
                if recorded.stop_requested_by:
                    self.stop_reason = f"{recorded.stop_requested_by} asked it to stop"
                elif recorded.released_at is not None:
                    self.stop_reason = "another process took it over, because this one gave no sign of life"


_held: dict[tuple[str, str], _HeldLease] = {}  # by database and run


def hold_run(store: Store, settings: Settings, run_id: str, on_wait: Callable[[str], None]) -> bool:
    """Take the lease of a run for this process, waiting while another process has it; whether it waited.

    `on_wait` is called once with a sentence that names that process.
    """
    key = settings.database_url, run_id
    if key in _held:
        return False
    waited = False
    while True:
        owner, now = this_process(), datetime.now(UTC)
        lease = store.acquire_lease(run_id, owner, _threads(), now, _cpu())
        if lease.owner == owner.id:
            break
        if not waited:
            on_wait(
                f"waiting: process {lease.process} on {lease.host} works on run {run_id}; "
                f"`naruto stop {run_id}` asks it to stop"
            )
        waited = True
        time.sleep(_WAIT_SECONDS)
    held = _held[key] = _HeldLease(lease)
    threading.Thread(target=held.keep, args=(settings.database_url,), name=f"lease {run_id}", daemon=True).start()
    return waited


def release_run(store: Store, settings: Settings, run_id: str) -> None:
    """End this process's lease of a run, if it has one."""
    held = _held.pop((settings.database_url, run_id), None)
    if held is not None:
        held.ended.set()
        store.release_lease(held.lease.id, datetime.now(UTC))


def still_holds(store: Store, settings: Settings, run_id: str) -> bool:
    """Whether this process still has the lease of a run: nobody took the run over, and nobody deleted it."""
    held = _held.get((settings.database_url, run_id))
    try:
        return held is not None and store.read_lease(held.lease.id).released_at is None
    except NotRecorded:
        return False


def cancel_held_runs() -> None:
    """Mark the runs that this process has the lease of as cancelled: a signal ends it between two steps."""
    for url, run_id in list(_held):
        held, now = _held.pop((url, run_id)), datetime.now(UTC)
        held.ended.set()
        with open_store(url) as store:
            store.cancel_run(run_id, STOPPED_BY_SIGNAL, now)
            store.release_lease(held.lease.id, now)


def add_wait(store: Store, settings: Settings, run_id: str, seconds: float) -> None:
    """Record that this process waited for its device, in `seconds`."""
    held = _held.get((settings.database_url, run_id))
    if held is not None and seconds > 1:
        store.add_lease_wait(held.lease.id, seconds)


def stop_requested() -> bool:
    """Whether somebody asked a run of this process to stop."""
    return any(held.stop_reason for held in _held.values())


def check_stop() -> None:
    """Called at safe points: raise RunStopped if somebody asked a run of this process to stop."""
    for (_, run_id), held in _held.items():
        if held.stop_reason:
            raise RunStopped(f"run {run_id} stopped: {held.stop_reason}; the same command resumes it.")


def _threads() -> int:
    """The number of CPU threads of this process; results depend on it in their last digits."""
    import torch  # commands that only read a run import no torch

    return torch.get_num_threads()


def _cpu() -> str:
    from naruto_core.devices import describe_cpu

    return describe_cpu()


def cpu_change(store: Store, run_id: str) -> str:
    """A warning where an earlier process worked on the run with other threads or on another CPU; else ""."""
    earlier = [lease for lease in store.leases(run_id) if lease.owner != this_process().id]
    if not earlier:
        return ""
    last, threads, cpu = earlier[-1], _threads(), _cpu()
    differ = "bytes may differ from those of an undisturbed run"
    if last.cpu not in ("", cpu):
        return f"warning: the run began on a CPU with {last.cpu} and now has a CPU with {cpu}: {differ}."
    if last.threads != threads:
        remedy = f"OMP_NUM_THREADS={last.threads} gives the same"
        return f"warning: the run began with {last.threads} CPU threads and goes on with {threads}: {differ}; {remedy}."
    return ""
