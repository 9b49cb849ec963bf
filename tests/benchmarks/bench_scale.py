"""`make bench-scale`: how work grows over runs, processes and machines. Ends with one line of JSON.

One CPU thread in each process. `sweep_ratio` is the user CPU of a 3 x 3 sweep (three ranks, three seeds) against nine
runs that share nothing: commands in processes and homes of their own. Pictures a second and the seconds of a shard
without pictures are of user and system CPU of all processes together where their names say so, else of the clock; a
machine that is busy makes the latter worse. Unit costs are what one run writes, and what its row and its heartbeat cost
the database.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "PREFECT_LOGGING_LEVEL": "CRITICAL", "DIFFUSERS_VERBOSITY": "error"}

import distributed
import pytest
import yaml
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from flows.profiles import choose_recipe
from naruto_core.artifacts import Layout
from naruto_core.domain import Sample, Variant
from naruto_core.settings import read_settings
from naruto_core.store.database import Store, open_store
from naruto_core.store.leases import this_process
from tasks.context import OpenRun, recorded_run, task_context
from tasks.generate import Models, generate
from tasks.shards import GPU_TAG, Conditions, conditions_of, open_cluster, worker_context
from tests.postgres import serving_postgres

RANKS, SEEDS = (4, 8, 16), (1, 2, 3)
EMPTY_SHARDS, ROWS, BEATS = 20, 2000, 200
# A small part of the miniature's recipe, in which drawing and class pictures take most of a run.
OPTIONS: dict[str, Any] = {
    "dataset.source": "world:naruto?count=60&seed=7",
    "dataset.hold_out": 30,
    "training.max_train_steps": 10,
    "training.validation": None,
    "training.prior.num_class_images": 32,
    "generation.prompts": 12,
    "generation.seeds": 2,
    "generation.num_inference_steps": 8,
    "generation.batch_size": 4,
    "scoring.resamples": 200,
}


def write_recipe(folder: Path) -> Path:
    """The recipe of all runs here."""
    tree = choose_recipe("mini", None, OPTIONS).model_dump(mode="json", exclude={"imported"})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder / "recipe.yaml"


def measure_sweep(folder: Path, recipe: Path) -> dict[str, float]:
    """User CPU in seconds of one run alone (the mean of two), of the sweep, and their ratio; the sweep's home stays."""
    file = folder / "sweep.yaml"
    grid = {"training.rank": list(RANKS)}
    content = {"name": "ranks", "recipe": str(recipe), "grid": grid, "seeds": list(SEEDS), "objective": "mmd"}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    alone: list[float] = []
    for seed in SEEDS[:2]:
        home = folder / f"alone-{seed}"
        alone.append(_user_cpu(home, "run", "--recipe", str(recipe), "--set", f"training.seed={seed}"))
        shutil.rmtree(home)
    together, one = _user_cpu(folder / "sweep", "sweep", str(file)), sum(alone) / len(alone)
    independent = len(RANKS) * len(SEEDS) * one
    return {"run_user_cpu": one, "sweep_user_cpu": together, "sweep_ratio": together / independent}


def _user_cpu(home: Path, *arguments: str) -> float:
    """User CPU in seconds of the command `naruto` with `arguments`, in the NARUTO_HOME `home`."""
    os.environ["NARUTO_HOME"] = str(home)
    before = os.times().children_user
    subprocess.run([sys.executable, "-m", "flows", *arguments], check=True, capture_output=True)
    return os.times().children_user - before


@flow
def draw_again(opened: OpenRun, models: Models) -> None:
    """Draw all samples of the run."""
    generate(opened, models.adapters, models.fused)


@task(cache_policy=NO_CACHE, tags=[GPU_TAG])
def empty_shard(shard: int, conditions: Conditions) -> int:
    """A shard without pictures."""
    with worker_context(conditions, "empty shard"):
        return shard


@flow
def empty_shards() -> None:
    """What a shard takes beside its pictures: Dask, Prefect, and the worker's database."""
    with task_context() as context, open_cluster(read_settings()) as cluster:
        list(cluster.map(empty_shard, range(EMPTY_SHARDS), {"conditions": conditions_of(context)}))


class Workers:
    """Dask workers of this machine; `cpu` is the user and system CPU of them and of this process, in seconds."""

    def __init__(self, address: str, home: Path) -> None:
        self.address, self.home, self.processes = address, home, list[subprocess.Popen[bytes]]()

    def start(self) -> None:
        """Start one, with a lock folder of its own."""
        name = f"worker-{len(self.processes)}"
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.address, "--no-nanny", "--nthreads", "1"]
        environment = os.environ | {"NARUTO_HOME": str(self.home), "NARUTO_LOCK_FOLDER": str(self.home / name)}
        with (self.home / f"{name}.log").open("w") as log:
            self.processes.append(
                subprocess.Popen([*command, "--no-dashboard"], env=environment, stdout=log, stderr=log)
            )

    @property
    def cpu(self) -> float:
        return sum(_cpu_seconds(pid) for pid in (os.getpid(), *(process.pid for process in self.processes)))

    def timed(self, work: Callable[[], object]) -> tuple[float, float]:
        """Seconds of the clock, and of CPU, that `work` takes."""
        began, before = time.monotonic(), self.cpu
        work()
        return time.monotonic() - began, self.cpu - before


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def open_workers(home: Path) -> Generator[Workers]:
    """A cluster without workers yet, which NARUTO_RUNNER names in the block."""
    cluster: Any = distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
    )
    with cluster, ExitStack() as stack:
        workers = Workers(cluster.scheduler_address, home)
        stack.callback(lambda: [process.kill() for process in workers.processes])
        os.environ["NARUTO_RUNNER"] = f"dask:{cluster.scheduler_address}"
        stack.callback(os.environ.pop, "NARUTO_RUNNER")
        yield workers


def measure_shards(home: Path) -> dict[str, float]:
    """Pictures per second by this process and by one and two workers, and what an empty shard takes."""
    with task_context() as context:
        run_id = context.store.runs()[0].run.id
        opened = recorded_run(context, run_id)
        models = Models(tuple(context.store.adapters(run_id)), context.store.find_fused(run_id))
    pictures, alone = len(opened.suite.prompts) * len(opened.suite.seeds) * 2, Workers("", home)

    def draw(workers: Workers) -> dict[str, float]:
        for lost in (home / "cache" / "pictures", home / "runs" / run_id / "samples"):
            shutil.rmtree(lost)
        seconds, cpu = workers.timed(lambda: draw_again(opened, models))
        return {"pictures_per_second": pictures / seconds, "pictures_per_cpu_second": pictures / cpu}

    found = _named("local", draw(alone))
    with open_workers(home) as workers:
        for number in (1, 2):
            workers.start()
            with distributed.Client(workers.address) as client:
                client.wait_for_workers(number)
            draw(workers)  # the new worker imports its modules
            found |= _named(f"workers_{number}", draw(workers))
        seconds, cpu = workers.timed(empty_shards)
    return found | {"empty_shard_seconds": seconds / EMPTY_SHARDS, "empty_shard_cpu": cpu / EMPTY_SHARDS}


def _named(prefix: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in figures.items()}


def measure_units(home: Path) -> dict[str, float]:
    """Bytes that one run of the sweep wrote for itself alone; rows a second, and the milliseconds of a heartbeat."""
    layout, database = Layout(home), home / "naruto.db"
    with open_store(f"sqlite:///{database}") as store:
        runs = [summary.run.id for summary in store.runs()]
        found = {"run_file_bytes": sum(_bytes(layout.run(run_id)) for run_id in runs) / len(runs)}
        found["run_database_bytes"] = database.stat().st_size / len(runs)
        found |= _named("sqlite", _database(store, runs[0]))
    try:
        with serving_postgres() as url, open_store(url) as store:
            found |= _named("postgres", _database(store, _empty_run(store, home)))
    except pytest.skip.Exception as reason:
        print(f"PostgreSQL is not measured: {reason}")
    return found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _empty_run(store: Store, home: Path) -> str:
    """A run without files, of the dataset of the runs in `home`."""
    with open_store(f"sqlite:///{home / 'naruto.db'}") as other:
        store.add_dataset(other.datasets()[0], [])
        run = other.runs()[0].run
        recipe = other.recipe_json(run.id)
    return store.open_run(
        profile=run.profile, recipe_json=recipe, fingerprint=run.fingerprint, dataset_id=run.dataset_id,
        git_commit="", now=datetime.now(UTC),
    ).id  # fmt: skip


def _database(store: Store, run_id: str) -> dict[str, float]:
    """Rows of samples a second, in transactions of 16 as drawing writes them, and one heartbeat: by clock and CPU."""
    rows = [Sample(f"x{n}", run_id, Variant.BASE, f"p{n // 4}", n % 4, f"x/{n}.png", "0" * 64) for n in range(ROWS)]
    clock = Workers("", Path())
    seconds, cpu = clock.timed(lambda: [store.add_samples(rows[at : at + 16]) for at in range(0, ROWS, 16)])
    lease = store.acquire_lease(run_id, this_process(), 1, datetime.now(UTC))
    beat, beat_cpu = clock.timed(lambda: [store.renew_lease(lease.id, datetime.now(UTC)) for _ in range(BEATS)])
    return {
        "rows_per_second": ROWS / seconds,
        "rows_per_cpu_second": ROWS / cpu,
        "heartbeat_ms": beat / BEATS * 1000,
        "heartbeat_cpu_ms": beat_cpu / BEATS * 1000,
    }


def main() -> None:
    """Measure everything in a folder of its own."""
    with tempfile.TemporaryDirectory() as name, prefect_test_harness(server_startup_timeout=240):
        folder = Path(name)
        os.environ["PREFECT_API_URL"] = PREFECT_API_URL.value() or ""
        home, figures = folder / "sweep", measure_sweep(folder, write_recipe(folder))
        for measure in (measure_units, measure_shards):
            print(figures, flush=True)  # what is known, should the rest be interrupted
            figures |= measure(home)
    cpu = sum(os.times()[:4])
    machine = {"cpus": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1), "cpu_seconds": round(cpu)}
    print(json.dumps({"bench": "scale"} | {key: float(f"{value:.4g}") for key, value in figures.items()} | machine))


if __name__ == "__main__":
    main()
