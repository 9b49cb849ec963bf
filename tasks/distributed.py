"""One training, as the first process calls for it and the others join in.

The others come from `accelerate launch`; or the process of the flow starts them itself, as many as training.processes
of the recipe says, so that a deployment of Prefect needs no other command: each is `python -m tasks.distributed`.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from naruto_core import sdxl
from naruto_core.errors import GO_ON, DeviceUnfit, RecipeInvalid, ServiceFailed, amount
from naruto_core.recipe import Recipe
from naruto_core.recipe_training import TrainingSection
from naruto_core.training import distributed
from naruto_core.training.batches import TrainingData
from naruto_core.training.loop import TrainingCallbacks, TrainingJob, train_adapter
from naruto_core.training.weights import Weights
from tasks.context import TaskContext, exclusive_device, task_context
from tasks.progress import say
from tasks.training_data import ClassPictures, StyleSource, TrainingPictures

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

START_SECONDS = 300.0  # importing the libraries takes most of it
END_SECONDS = 60.0
_POLL_SECONDS = 0.1
_LOST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class TrainingCall:
    """Everything that all processes of one training must agree on; `section` with the split that was planned."""

    recipe: Recipe
    section: TrainingSection
    styles: tuple[StyleSource, ...]
    drawn: ClassPictures | None
    checkpoint: Path
    identity: str

    def train(
        self,
        pipeline: "StableDiffusionXLPipeline",
        stages: Sequence[TrainingData],
        checkpoint_seconds: float,
        callbacks: TrainingCallbacks,
    ) -> Weights:
        """This process's share of the training."""
        tokens = self.recipe.new_tokens
        job = TrainingJob(self.section, tokens, self.checkpoint, checkpoint_seconds, self.identity, callbacks)
        return train_adapter(pipeline, stages, job)


def follow(group: Callable[[torch.device], AbstractContextManager[None]] = distributed.process_group) -> None:
    """Join in every training that the first process of `group` calls for; the pictures are encoded by then."""
    with task_context() as context, group(context.device):

        def join(call: TrainingCall) -> None:
            with _own_device(context):
                pipeline = sdxl.load_pipeline(call.recipe.model, call.section.mixed_precision, context.device)
                stages = TrainingPictures(context, pipeline, call.recipe).stages(call.styles, call.drawn)
                call.train(pipeline, stages, context.settings.checkpoint_seconds, TrainingCallbacks(_ignore, _ignore))

        distributed.run_broadcast_jobs(join)


def _own_device(context: TaskContext) -> AbstractContextManager[None]:
    """This process's GPU for the block alone; processes on one CPU share the first one's lock."""
    return exclusive_device(context, "training") if context.device.type == "cuda" else nullcontext()


def _ignore(_: object) -> None: ...


def check_processes(section: TrainingSection, device: torch.device) -> None:
    """Raise RecipeInvalid or DeviceUnfit where training.processes is not what was launched, or is too many."""
    launched, wanted = distributed.launched_processes(), section.processes
    if launched not in (1, wanted):
        raise RecipeInvalid(
            f"{launched} processes were launched, but training.processes is {wanted}: set it to {launched}."
        )
    if launched > 1 or wanted == 1 or device.type != "cuda":
        return
    if device.index:
        raise DeviceUnfit(
            f"training.processes is {wanted}, and its processes use the GPUs from cuda:0 on, but NARUTO_DEVICE is "
            f"{device}: set NARUTO_DEVICE=auto, and choose GPUs by CUDA_VISIBLE_DEVICES."
        )
    if (gpus := torch.cuda.device_count()) < wanted:
        raise DeviceUnfit(
            f"training.processes is {wanted}, but this machine shows {amount(gpus, 'GPU')}: set it to {gpus}."
        )


@contextmanager
def training_processes(context: TaskContext, processes: int) -> Generator[None]:
    """Inside the block, `processes` processes of this machine train together; this is the first of them.

    A single one, and those that were launched from outside, need nothing. Raises ServiceFailed where a process does not
    start, or ends before the block.
    """
    if processes == 1 or distributed.launched_processes() > 1:
        yield
        return
    say(f"{processes} processes train together")
    store = distributed.listening_store(processes)
    others = [_start(distributed.process_variables(store, rank, processes)) for rank in range(1, processes)]
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(others, ended), name="training processes", daemon=True)
    try:
        _wait_until_ready(lambda rank: distributed.is_ready(store, rank), others)
        watch.start()
        with distributed.open_group(context.device, store, 0, processes), _naming_lost(others):
            yield
        ended.set()
        watch.join()
        with suppress(subprocess.TimeoutExpired):  # it is killed then
            for process in others:
                process.wait(END_SECONDS)
    finally:
        ended.set()
        for process in others:
            process.kill()


def _start(variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start one of the other processes; its output is this one's."""
    environment = {"OMP_NUM_THREADS": str(torch.get_num_threads())} | os.environ | variables
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.distributed"],
        env=environment,
        start_new_session=True,  # Ctrl-C in the terminal is for the first process, which ends the others
    )


def _wait_until_ready(is_ready: Callable[[int], bool], others: "Sequence[subprocess.Popen[bytes]]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while not all(is_ready(rank) for rank, _ in enumerate(others, 1)):
        if lost := _first_ended(others):
            raise ServiceFailed(lost)
        if time.monotonic() > deadline:
            raise ServiceFailed(f"the processes of the training did not start in {START_SECONDS:.0f} s; {GO_ON}")
        time.sleep(_POLL_SECONDS)


def _first_ended(others: "Sequence[subprocess.Popen[bytes]]") -> str:
    """A sentence about the first process that has ended; "" where all of them run."""
    for rank, process in enumerate(others, 1):
        if (status := process.poll()) is not None:
            return (
                f"process {rank + 1} of the {len(others) + 1} of the training ended with status {status}; its output, "
                f"beside this one's, says why; {GO_ON}"
            )
    return ""


@contextmanager
def _naming_lost(others: "Sequence[subprocess.Popen[bytes]]") -> Generator[None]:
    """Inside the block, the error of an operation of the group is ServiceFailed where another process has gone.

    Its connection is closed a little before it has ended. While the group is open, an error of this process ends no
    other one.
    """
    try:
        yield
    except RuntimeError as error:
        deadline = time.monotonic() + _LOST_SECONDS
        while time.monotonic() < deadline:
            if lost := _first_ended(others):
                raise ServiceFailed(lost) from error
            time.sleep(_POLL_SECONDS)
        raise


def _watch(others: "Sequence[subprocess.Popen[bytes]]", ended: threading.Event) -> None:
    """End this process where another one has gone and this one has not noticed: on GPUs it may wait for ever."""
    while not ended.wait(1.0):
        if lost := _first_ended(others):
            if not ended.wait(END_SECONDS):
                say(lost)
                os._exit(1)
            return


def _end_with_parent() -> None:
    """End this process when the one that started it has gone, however that ended."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="end with the parent process", daemon=True).start()
    follow(distributed.join_group)
