"""`make bench-shards`: pictures per second by one process and by one and two Dask workers, and what a shard costs.

One CPU thread each. Ends with a line of JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "PREFECT_LOGGING_LEVEL": "CRITICAL", "DIFFUSERS_VERBOSITY": "error"}

import distributed
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from flows.train_naruto import train_naruto
from naruto_core.settings import read_settings
from tasks.context import OpenRun, recorded_run, task_context
from tasks.generate import Models, generate
from tasks.shards import GPU_TAG, Conditions, conditions_of, open_cluster, worker_context

REPEATS = 3
EMPTY = 30
SMALL = {
    "dataset.source": "world:naruto?count=40&seed=5",
    "dataset.hold_out": 12,
    "training.max_train_steps": 2,
    "training.prior": None,
    "training.validation": None,
    "generation.prompts": 12,
    "generation.num_inference_steps": 8,
    "generation.seeds": 2,
    "generation.batch_size": 4,
    "scoring.resamples": 200,
}


@flow
def draw_again(opened: OpenRun, models: Models) -> float:
    """Seconds to draw all samples of the run, whose files were removed."""
    layout_root = read_settings().root
    for lost in (layout_root / "cache" / "pictures", layout_root / "runs" / opened.id / "samples"):
        shutil.rmtree(lost)
    began = time.monotonic()
    generate(opened, models.adapters, models.fused)
    return time.monotonic() - began


@task(cache_policy=NO_CACHE, tags=[GPU_TAG])
def empty_shard(shard: int, conditions: Conditions) -> int:
    """A shard without pictures."""
    with worker_context(conditions, "empty shard"):
        return shard


@flow
def empty_shards() -> float:
    """Seconds that a shard without pictures takes: Dask, Prefect, and the worker's database."""
    with task_context() as context, open_cluster(read_settings()) as cluster:
        shared = {"conditions": conditions_of(context.device)}
        began = time.monotonic()
        list(cluster.map(empty_shard, range(EMPTY), shared))
        return (time.monotonic() - began) / EMPTY


@contextmanager
def worker(address: str, home: Path, name: str) -> Generator[None]:
    """A worker process with a lock folder of its own."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1"]
    environment = os.environ | {"NARUTO_HOME": str(home), "NARUTO_LOCK_FOLDER": str(home / f"locks-{name}")}
    with (home / f"{name}.log").open("w") as log:
        process = subprocess.Popen([*command, "--no-dashboard"], env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def measure(home: Path) -> dict[str, Any]:
    """The figures, from one small run in the folder `home`."""
    run_id = train_naruto("mini", None, SMALL)
    with task_context() as context:
        opened = recorded_run(context, run_id)
        models = Models(tuple(context.store.adapters(run_id)), context.store.find_fused(run_id))
    pictures = len(opened.suite.prompts) * len(opened.suite.seeds) * 2
    rates = {"local": pictures / median([draw_again(opened, models) for _ in range(REPEATS)])}
    cluster: Any = distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
    )
    empty = 0.0
    with cluster, ExitStack() as stack:
        os.environ["NARUTO_RUNNER"] = f"dask:{cluster.scheduler_address}"
        for number in (1, 2):
            stack.enter_context(worker(cluster.scheduler_address, home, f"worker-{number}"))
            with distributed.Client(cluster) as client:
                client.wait_for_workers(number)
            seconds = [draw_again(opened, models) for _ in range(REPEATS + 1)]  # the first one imports modules
            rates[f"dask, {number} worker{'s' * (number > 1)}"] = pictures / median(seconds[1:])
            if number == 1:
                empty = empty_shards()
    return {
        "pictures": pictures,
        "pictures_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "seconds_per_empty_shard": round(empty, 3),
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=240):
        os.environ |= {"NARUTO_HOME": folder, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
        figures = measure(Path(folder))
    for name, rate in figures["pictures_per_second"].items():
        print(f"{name:<16} {rate:6.2f} pictures/s")
    print(f"an empty shard takes {figures['seconds_per_empty_shard'] * 1000:.0f} ms")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
