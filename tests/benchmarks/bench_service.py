"""The HTTP service on the miniature: what HTTP costs, what batching gains, 1,000 requests of all kinds, and attacks.

The service is a process of its own; the bare Painter and the plain loop `pipe(prompt)` run here, in turns with it.
Costs are seconds of user CPU on one thread, of both processes: they are about the same on a busy machine.
"""

import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx2
import torch

from naruto_core import sdxl
from naruto_core.fusion import load_adapters, scaled_adapters
from naruto_core.generation import Job, Painter
from naruto_core.serving import OPEN
from naruto_core.store.database import open_database
from tests.benchmarks.bench_generate import plain_loop
from tests.deployments.serving import free_port, wait_until_ready
from tests.tasks.recorded_run import CPU, Recorded, recorded_run

ROUNDS, CLIENTS, PICTURES = 5, 16, 32
REQUESTS, CROWD = 1000, 64
SLOW, GUESSES, STORM = 200, 100, 100  # connections, ids, cancelled requests
_SETTLED = 10  # seconds in which the process that measures served pictures has loaded its packages
RUN = {"generation.mixed_precision": "bf16", "generation.batch_size": 4, "generation.num_inference_steps": 30}
# one for all, as OpenAI's client keeps its own: making one costs 20 ms
_CLIENT = httpx2.Client(limits=httpx2.Limits(max_connections=CROWD * 2))
PROMPT = "a naruto anime character with red hair"


def _user(pid: int) -> float:
    """The user CPU of a process so far, in s: field 14 of its `stat` (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def _seconds(service: int, work: Callable[[], object]) -> float:
    """The user CPU that `work` takes here and in the process `service`."""
    began = _user(service), os.times().user
    work()
    return _user(service) - began[0] + os.times().user - began[1]


def _ask(url: str, wait: float = 120, **fields: object) -> int:
    return _CLIENT.post(f"{url}/v1/images/generations", json=fields, timeout=wait).status_code


def _lone(url: str, service: int, made: Recorded) -> dict[str, float]:
    """Lone pictures of the same LoRA, in turns: over HTTP, by the bare Painter, alone and padded to 4, by a plain loop.

    Every round has a prompt of its own, as the service keeps encoded texts.
    """
    pipeline = sdxl.load_pipeline(made.recipe.model, "bf16", CPU)
    load_adapters(pipeline, scaled_adapters(made.layout.root, made.recipe.fusion, made.adapters))
    painter = Painter(pipeline, made.recipe.generation.model_copy(update={"batch_size": 1}))
    padded = Painter(pipeline, made.recipe.generation)
    plain = sdxl.load_pipeline(made.recipe.model, "fp32", CPU)
    load_adapters(plain, scaled_adapters(made.layout.root, made.recipe.fusion, made.adapters))
    plain.scheduler = painter.pipeline.scheduler
    works: dict[str, Callable[[Job], object]] = {
        "service": lambda job: _ask(url, prompt=job.text, seed=job.seed),
        "painter": lambda job: painter.paint([job]),
        "padded painter": lambda job: padded.paint([job]),
        "plain loop": lambda job: plain_loop(plain, made.recipe.generation, [job]),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        job = Job(f"{PROMPT} {number}", number)
        for name, work in works.items():
            seconds = _seconds(service, partial(work, job))
            taken[name] += [seconds] if number else []  # the first round warms up
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _crowd(url: str, service: int) -> float:
    """User CPU of a picture when 16 clients ask at once."""
    with ThreadPoolExecutor(CLIENTS) as crowd:
        work = lambda: list(crowd.map(lambda seed: _ask(url, prompt=PROMPT, seed=seed), range(PICTURES)))  # noqa: E731
        return _seconds(service, work) / PICTURES


def _one(url: str, number: int) -> str:
    """Most requests are honest; some leave early, some are hostile."""
    draw = random.Random(number)
    kind = draw.choices(["honest", "leaves", "hostile"], [0.8, 0.1, 0.1])[0]
    fields: dict[str, object] = {"prompt": f"number {number}", "steps": 2, "size": "32x32", "seed": number}
    try:
        if kind == "leaves":
            return str(_ask(url, wait=0.02, **fields | {"steps": 40}))
        if kind == "hostile":
            junk: dict[str, object] = draw.choice([{"n": 10**9}, {"size": "9x9"}, {"prompt": "x" * 10**5}, {"a": 1}])
            return str(_ask(url, **fields | junk))
        while (status := _ask(url, **fields)) == 429:
            time.sleep(draw.uniform(0.05, 0.3))
    except httpx2.TimeoutException:
        return "left"
    return str(status)


def _memory(url: str) -> float:
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("naruto_memory_bytes ")) / 2**20


def _load(url: str, home: Path) -> dict[str, object]:
    def part(first: int, last: int) -> Counter[str]:
        with ThreadPoolExecutor(CROWD) as crowd:
            return Counter(crowd.map(lambda number: _one(url, number), range(first, last)))

    ends, memory = Counter[str](), list[float]()
    for quarter in range(4):
        ends += part(quarter * REQUESTS // 4, (quarter + 1) * REQUESTS // 4)
        time.sleep(2)
        memory.append(round(_memory(url), 1))
    with open_database(f"sqlite:///{home / 'naruto.db'}").service_jobs as record:
        stuck = sum(job.state in OPEN for job in record.since(datetime(2026, 1, 1, tzinfo=UTC)))
    return {
        "ends": dict(sorted(ends.items())),
        "stuck_jobs": stuck,
        "memory_mib": memory,
        "grown_mib": round(memory[3] - memory[1], 1),
    }


def _honest(url: str) -> int:
    """How many of ten honest requests are answered with a picture."""
    return sum(_ask(url, prompt=f"honest {seed}", steps=1, size="32x32", seed=seed) == 200 for seed in range(10))


def _slow_headers(url: str) -> int:
    """Ten honest requests while many connections send their headers a byte at a time."""
    host, port = url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(SLOW)]
    for connection in slow:
        connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nX-A: ")
    answered = _honest(url)
    for connection in slow:
        connection.sendall(b"a")
        connection.close()
    return answered


def _large_bodies(url: str) -> list[str]:
    """The answers to 16 MiB with a length, and without one in chunks."""

    def chunks() -> Iterator[bytes]:
        for _ in range(256):
            yield b" " * 65_536

    answers: list[str] = []
    for content in (b" " * 2**24, chunks()):
        headers = {"Content-Type": "application/json"}
        try:
            answers.append(
                str(_CLIENT.post(f"{url}/v1/images/generations", content=content, headers=headers).status_code)
            )
        except httpx2.HTTPError as error:  # closed before all of it was sent
            answers.append(type(error).__name__)
    return answers


def _cancel_storm(url: str) -> int:
    """How many of the requests that were cancelled at once ended so."""
    body, later = {"prompt": "x", "steps": 60, "size": "32x32"}, {"Prefer": "respond-async"}
    ended = 0
    for _ in range(STORM):
        answer = _CLIENT.post(f"{url}/v1/images/generations", json=body, headers=later)
        ended += _CLIENT.delete(url + answer.headers["Location"]).json()["status"] == "cancelled"
    return ended


def _opened(url: str) -> int:
    """How many guessed ids and altered or expired addresses open something."""
    answer = _CLIENT.post(
        f"{url}/v1/images/generations", json={"prompt": "x", "steps": 1, "response_format": "url"}, timeout=120
    )
    picture = answer.json()["data"][0]["url"]
    name, expires, signature = (picture.partition(mark)[2] for mark in ("/pictures/", "expires=", "signature="))
    assert _CLIENT.get(picture).status_code == 200
    forged = [
        picture[:-1] + ("0" if picture[-1] != "0" else "1"),
        picture.replace(f"expires={expires.partition('&')[0]}", "expires=1"),
        picture.replace(f"expires={expires.partition('&')[0]}", "expires=9999999999"),
        picture.replace(name[:32], "0" * 32),
        picture.replace(f"signature={signature}", "signature="),
        picture.replace("/pictures/", "/pictures/..%2F"),
    ]
    guessed = [f"{url}/v1/jobs/job-{random.Random(number).randbytes(16).hex()}" for number in range(GUESSES)]
    return sum(_CLIENT.get(address).status_code < 400 for address in (*forged, *guessed))


def _attacks(url: str) -> dict[str, object]:
    before = _memory(url)
    return {
        "honest_of_10_beside_slow_headers": _slow_headers(url),
        "large_bodies": _large_bodies(url),
        f"cancelled_of_{STORM}": _cancel_storm(url),
        f"opened_of_{GUESSES + 6}_forged": _opened(url),
        "honest_of_10_afterwards": _honest(url),
        "grown_mib_by_attacks": round(_memory(url) - before, 1),
    }


def main() -> None:
    """Print what was measured, then one line of JSON."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, recorded_run(Path(scratch), RUN, drawn=False) as made:
        made.store.finish_run(made.run.id, datetime.now(UTC))
        port = free_port()
        here = {"NARUTO_HOME": scratch, "NARUTO_SERVICE_PORT": str(port), "NARUTO_SERVICE_PICTURES_PER_MINUTE": "1e9",
                "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # fmt: skip
        command = [sys.executable, "-m", "deployments.service", "serve"]
        with subprocess.Popen(command, env=os.environ | here, stderr=subprocess.DEVNULL) as process:
            try:
                url = f"http://127.0.0.1:{port}"
                wait_until_ready(url)
                time.sleep(_SETTLED)
                lone = _lone(url, process.pid, made)
                print("one picture, s:", {name: round(seconds, 3) for name, seconds in lone.items()}, flush=True)
                shared = _crowd(url, process.pid)
                print(f"a picture of {CLIENTS} clients: {shared:.3f} s", flush=True)
                load = _load(url, Path(scratch))
                print(f"{REQUESTS} requests from {CROWD} clients:", load, flush=True)
                attacks = _attacks(url)
                print("attacks:", attacks, flush=True)
            finally:
                process.terminate()
    ratios = {
        "lone_over_painter": round(lone["service"] / lone["painter"], 3),
        "lone_over_plain_loop": round(lone["service"] / lone["plain loop"], 3),
        f"{CLIENTS}_clients_over_lone": round(lone["service"] / shared, 2),
        f"{CLIENTS}_clients_over_padded": round(lone["padded painter"] / shared, 2),
        f"{CLIENTS}_clients_over_plain_loop": round(lone["plain loop"] / shared, 2),
    }
    print(json.dumps({"bench": "service"} | ratios | load | attacks))


if __name__ == "__main__":
    main()
