"""Shards: parts of one step that do not depend on each other, computed by the workers of a Dask cluster.

NARUTO_RUNNER=dask:ADDRESS names the cluster's scheduler. A shard is whole batches, so that its bytes are those of one
process. Workers write files and return records; only the process that has the run's lease writes to the database. All
of them have one NARUTO_HOME, or a bucket (NARUTO_STORE) and a NARUTO_HOME each.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from queue import Empty, SimpleQueue
from socket import gethostname
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from prefect import Task, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL

from naruto_core import devices
from naruto_core.errors import GO_ON, DeviceUnfit, ServiceFailed, StorageFailed
from naruto_core.settings import Settings
from tasks.context import TaskContext, exclusive_device, task_context
from tasks.run_lease import check_stop

if TYPE_CHECKING:
    from prefect_dask import DaskTaskRunner

GPU_TAG = "gpu"  # of tasks that need a device: `prefect concurrency-limit create gpu 4` limits them
RETRIES = 2
RETRY_SECONDS = [2.0, 10.0]
CONNECT_SECONDS = 10.0
WORKER_SECONDS = 30.0  # without any worker for so long, the step fails
_POLL_SECONDS = 1.0
_SHARDS_PER_WORKER = 3  # of each model: a shard loads its model, and a lost worker loses one shard

Item = TypeVar("Item")
Shard = TypeVar("Shard")
Result = TypeVar("Result")
P = ParamSpec("P")


def scheduler_address(settings: Settings) -> str:
    """The address of the Dask scheduler; "" where the runner is local."""
    return settings.runner.partition(":")[2]


def in_batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """`items` in batches of `size`; the last one may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def plan_shards(batches: Sequence[Item], workers: int) -> list[Sequence[Item]]:
    """`batches` in their order, as at most three shards for each worker, whose lengths differ by at most one."""
    n = min(len(batches), max(1, workers) * _SHARDS_PER_WORKER)
    bounds = [len(batches) * i // n for i in range(n + 1)] if n else []
    return [batches[start:end] for start, end in pairwise(bounds)]


def may_pass(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether the error of a shard may pass: an input or output error, a service, or the time limit."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, (OSError, ServiceFailed))  # TimeoutError is an OSError


def shard_task(name: Callable[[], str]) -> Callable[[Callable[P, Result]], Task[P, Result]]:
    """The decorator of tasks that compute a shard: tried again where the error may pass; `name` is of a task run."""
    return task(
        cache_policy=NO_CACHE,
        task_run_name=name,
        tags=[GPU_TAG],
        retries=RETRIES,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=may_pass,
    )


@dataclass(frozen=True, slots=True)
class Conditions:
    """What pictures depend on besides recipe and seed; the same for all workers of a step."""

    device: str  # cuda, or the kind of CPU
    threads: int  # of the CPU
    libraries: str
    store: str  # of NARUTO_STORE, where the files of a shard are found; "" for a shared NARUTO_HOME


def conditions_of(context: TaskContext) -> Conditions:
    """The conditions of this process."""
    import diffusers

    device = context.device
    versions = f"torch {torch.__version__} and diffusers {diffusers.__version__}"
    kind = device.type if device.type == "cuda" else f"cpu, {devices.describe_cpu()}"
    return Conditions(kind, torch.get_num_threads(), versions, context.settings.store)


_one_at_a_time = threading.Lock()  # a worker may have several threads, but its device is for one shard


@contextmanager
def worker_context(conditions: Conditions, stage: str) -> Generator[TaskContext]:
    """The context of a shard on its worker, which has the device for the block, and the CPU threads of `conditions`.

    Raises DeviceUnfit where this worker has another kind of device or other libraries, and StorageFailed where it has
    another bucket.
    """
    with _one_at_a_time, task_context() as context:
        torch.set_num_threads(conditions.threads)  # of this thread: Dask starts workers with one
        here = conditions_of(context)
        if here.store != conditions.store:
            raise StorageFailed(
                f"the worker on {gethostname()} has {_describe(here.store)}, but the run "
                f"{_describe(conditions.store)}: set NARUTO_STORE to the same value for all of them, or for none."
            )
        if here != conditions:
            raise DeviceUnfit(
                f"the worker on {gethostname()} computes on {here.device} with {here.libraries}, but the run on "
                f"{conditions.device} with {conditions.libraries}: install the same versions and set NARUTO_DEVICE, "
                "or stop that worker."
            )
        with exclusive_device(context, stage):
            yield context


def _describe(store: str) -> str:
    return f"NARUTO_STORE={store}" if store else "no bucket (NARUTO_STORE)"


@dataclass(frozen=True, slots=True)
class Cluster:
    """An open connection to the Dask scheduler at `address`; a shard is tried again after `timeout_seconds`."""

    address: str
    runner: "DaskTaskRunner"
    timeout_seconds: float

    @property
    def workers(self) -> int:
        """The number of workers that are connected to the scheduler."""
        return len(self.runner.client.scheduler_info().get("workers", {}))  # none while the connection is lost

    def map(
        self, task: "Task[..., Result]", shards: Sequence[Shard], shared: Mapping[str, object]
    ) -> Iterator[tuple[Shard, Result]]:
        """Compute `task(shard, **shared)` for each of `shards`; yields each shard with its result when it is done.

        Raises the error of a shard that failed for good, RunStopped, and ServiceFailed where the scheduler ends or no
        worker is left for WORKER_SECONDS. Shards that have not begun are cancelled then.
        """
        limited = task.with_options(timeout_seconds=self.timeout_seconds)
        fixed = {name: unmapped(value) for name, value in shared.items()}
        futures: Any = self.runner.map(limited, {"shard": list(shards), **fixed})
        pending: dict[Any, tuple[Any, Shard]] = {}
        finished: SimpleQueue[Any] = SimpleQueue()
        for future, shard in zip(futures, shards, strict=True):
            pending[future.wrapped_future] = future, shard
            future.wrapped_future.add_done_callback(finished.put)
        try:
            while pending:
                future, shard = pending.pop(self._wait(finished))
                yield shard, self._result(future)
        finally:
            if pending and self.runner.client.status == "running":
                self.runner.client.cancel(list(pending))

    def _wait(self, finished: "SimpleQueue[Any]") -> Any:
        """The next of `finished`; meanwhile notices requests to stop, and that workers or the scheduler have gone."""
        without_workers = 0.0
        while without_workers < WORKER_SECONDS:
            check_stop()
            try:
                return finished.get(timeout=_POLL_SECONDS)
            except Empty:
                with self._scheduler_errors():
                    without_workers = 0.0 if self.workers else without_workers + _POLL_SECONDS
        raise ServiceFailed(f"the last worker of the Dask scheduler at {self.address} has gone: {self._start_worker}")

    def _result(self, future: Any) -> Any:
        from distributed import KilledWorker

        try:
            with self._scheduler_errors():
                return future.result()
        except KilledWorker as error:
            raise ServiceFailed(
                f"a shard ended several workers of {self.address}; their memory may be too small: {error}"
            ) from None

    @contextmanager
    def _scheduler_errors(self) -> Generator[None]:
        """Inside the block, a lost connection to the scheduler raises ServiceFailed."""
        try:
            yield
        except (CancelledError, OSError) as error:
            if self.runner.client.status == "running" and isinstance(error, OSError):
                raise  # the error of a shard
            raise ServiceFailed(f"the Dask scheduler at {self.address} has ended: start it again; {GO_ON}") from None

    @property
    def _start_worker(self) -> str:
        return f"start one with  dask worker {self.address} --nthreads 1 ; {GO_ON}"

    def check_workers(self) -> None:
        """Raise ServiceFailed where no worker is connected within CONNECT_SECONDS."""
        try:
            self.runner.client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise ServiceFailed(f"the Dask scheduler at {self.address} has no worker: {self._start_worker}") from None


@contextmanager
def open_cluster(settings: Settings) -> Generator[Cluster]:
    """The cluster of NARUTO_RUNNER, which has a worker.

    Raises ServiceFailed where nobody listens at its address, where it has no worker, without a Prefect server, and
    where Dask is not installed.
    """
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError:
        raise ServiceFailed(
            "NARUTO_RUNNER=dask needs packages that are not installed: uv sync --extra cluster."
        ) from None
    address = scheduler_address(settings)
    if not PREFECT_API_URL.value():
        raise ServiceFailed(
            "NARUTO_RUNNER=dask needs a Prefect server that the workers reach: start one with `make up`, and set "
            "PREFECT_API_URL to its address."
        )
    with DaskTaskRunner(address=address, client_kwargs={"timeout": CONNECT_SECONDS}) as runner:
        try:
            _ = runner.client
        except (OSError, ValueError) as error:
            raise ServiceFailed(
                f"no Dask scheduler answers at {address} (NARUTO_RUNNER): start one with `dask scheduler`, or set "
                f"NARUTO_RUNNER=local; {GO_ON}"
            ) from error
        cluster = Cluster(address, runner, settings.shard_seconds)
        cluster.check_workers()
        yield cluster
