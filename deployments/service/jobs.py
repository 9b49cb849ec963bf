"""Requests on their way: from tickets to a reply, and what is remembered of them."""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from opentelemetry import context

from deployments.service.engine import Engine, QueueItem
from deployments.service.image_files import PictureFiles
from deployments.service.metrics import Metrics
from deployments.service.model_registry import ModelSpec
from deployments.service.moderation import Moderator
from deployments.service.quality_worker import Sampler
from deployments.service.tracing import record_spans
from naruto_core.continuous_batching import Order
from naruto_core.picture_file import encode_picture
from naruto_core.serving import OPEN, JobState, ServiceJob
from naruto_core.store.service_jobs import ServiceJobs

if TYPE_CHECKING:
    from PIL.Image import Image

_REMEMBERED = 1000  # finished jobs in memory; the record has all of them
_log = logging.getLogger("naruto.service")


class Job:
    """One request under way. Lives in the event loop; the engine's thread reaches it through `call_soon_threadsafe`."""

    def __init__(
        self, noun: ServiceJob, look: ModelSpec, orders: list[Order], *, keep: bool, watch: str, warning: str
    ) -> None:
        self.noun, self.keep, self.watch, self.warning = noun, keep, watch, warning
        self.refused = False
        self.asked_in = context.get_current()  # the trace it belongs to
        self.steps_total = sum(order.num_inference_steps for order in orders)
        self.files: list[bytes] = []
        self.ended = asyncio.Event()
        self._steps = [0] * len(orders)
        self.drawn: dict[int, Image] = {}
        loop = asyncio.get_running_loop()
        self.done_drawing = asyncio.Event()

        def tell(number: int, order: Order) -> QueueItem:
            return QueueItem(
                look, noun.height, noun.width, order,
                on_step=lambda step: self._stepped(loop, number, step),
                on_picture=lambda picture: _soon(loop, self._pictured, number, picture),
                on_failure=lambda why: _soon(loop, self.fail, why),
            )  # fmt: skip

        self.tickets = [tell(number, order) for number, order in enumerate(orders)]

    @property
    def steps_done(self) -> int:
        return sum(self._steps)

    def fail(self, why: str) -> None:
        """The first reason counts."""
        if self.noun.state in OPEN and not self.noun.failure:
            self.noun = replace(self.noun, failure=why)
            self.done_drawing.set()

    def _stepped(self, loop: asyncio.AbstractEventLoop, number: int, step: int) -> None:
        """In the engine's thread, which the loop's must not interrupt at every step: whoever watches looks here."""
        if not any(self._steps):
            _soon(loop, self._started)
        self._steps[number] = step

    def _started(self) -> None:
        if self.noun.state is JobState.QUEUED:
            self.noun = replace(self.noun, state=JobState.RUNNING, started_at=datetime.now(UTC))

    def _pictured(self, number: int, picture: "Image") -> None:
        self.drawn[number] = picture
        if len(self.drawn) == len(self.tickets):
            self.done_drawing.set()


def _soon(loop: asyncio.AbstractEventLoop, *call: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(*call)  # type: ignore[arg-type]


class Jobs:
    """All jobs of this process; the store has those of others and of earlier ones."""

    def __init__(
        self, engine: Engine, record: ServiceJobs, files: PictureFiles, checker: Moderator, sampler: Sampler,
        metrics: Metrics,
    ) -> None:  # fmt: skip
        self._engine, self._record, self._files = engine, record, files
        self._checker, self._sampler, self._metrics = checker, sampler, metrics
        self._known: OrderedDict[str, Job] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer = ThreadPoolExecutor(1, "record")  # one by one, so that a job's end is written after its begin

    async def take(
        self, noun: ServiceJob, look: ModelSpec, orders: list[Order], *, keep: bool, watch: str = "", warning: str = ""
    ) -> Job:
        """Put a request in line; Refused when that is too long. `keep`: the pictures become files.

        `watch` is the prompt as it was asked, where some of the pictures may be measured afterwards; `warning` is told
        with the job.
        """
        job = Job(noun, look, orders, keep=keep, watch=watch, warning=warning)
        self._engine.submit(job.tickets)
        self._known[noun.id] = job
        while len(self._known) > _REMEMBERED and next(iter(self._known.values())).noun.state not in OPEN:
            self._known.popitem(last=False)
        written = self._write(job)
        if keep:
            await written
        task = asyncio.create_task(self._see_through(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    def find(self, job_id: str) -> Job | None:
        return self._known.get(job_id)

    def cancel(self, job: Job) -> None:
        """Stop drawing at the next step; nothing for a job that has ended."""
        if job.noun.state in OPEN:
            self._engine.cancel(job.tickets)
            job.noun = replace(job.noun, state=JobState.CANCELLED)
            job.done_drawing.set()

    async def watch(self, job: Job) -> AsyncIterator[None]:
        """Yields at every change, at most ten times a second, and once at the end."""
        told = -1
        while not job.ended.is_set():
            if job.steps_done != told:
                told = job.steps_done
                yield
            with suppress(TimeoutError):
                await asyncio.wait_for(job.ended.wait(), 0.1)
        yield

    async def close(self) -> None:
        """Wait for what is being written."""
        for job in self._known.values():
            if job.noun.state in OPEN:
                job.fail("the service was stopped before the pictures were drawn; ask again.")
        await asyncio.gather(*self._tasks)
        await asyncio.to_thread(self._writer.shutdown)

    async def _see_through(self, job: Job) -> None:
        await job.done_drawing.wait()
        try:
            if job.noun.state is not JobState.CANCELLED and not job.noun.failure:
                await asyncio.to_thread(self._finish, job)
        except Exception as error:  # noqa: BLE001 (whatever it is, whoever waits must hear of it)
            self._metrics.errors.labels(type(error).__name__).inc()
            _log.exception("a reply could not be made")
            job.noun = replace(job.noun, failure="the pictures could not be written; the service's log says why.")
        if job.noun.failure:
            self._engine.cancel(job.tickets)
        state = JobState.DONE
        if job.noun.failure:
            state = JobState.REFUSED if job.refused else JobState.FAILED
        if job.noun.state is JobState.CANCELLED:
            state = JobState.CANCELLED
        job.noun = replace(job.noun, state=state, finished_at=datetime.now(UTC))
        job.drawn = {}
        self._metrics.pictures.labels(state).inc(len(job.tickets))
        job.ended.set()
        record_spans(job.noun, job.asked_in)
        if not job.keep:  # the reply has the pictures; memory shall not, and the record knows the rest
            self._known.pop(job.noun.id, None)
        self._write(job)

    def _finish(self, job: Job) -> None:
        """In a thread: check, encode, keep."""
        for number, ticket in enumerate(job.tickets):
            picture, order = job.drawn[number], ticket.order
            if reason := self._checker.picture(picture):
                job.noun, job.refused = replace(job.noun, failure=f"A picture was refused: {reason}."), True
                return
            facts: dict[str, object] = {
                "model": job.noun.model, "prompt": order.text, "negative_prompt": order.negative_prompt,
                "seed": order.seed, "num_inference_steps": order.num_inference_steps,
                "guidance_scale": order.guidance_scale,
            }  # fmt: skip
            job.files.append(encode_picture(picture, facts))
            if job.watch and self._sampler.chosen():
                self._sampler.keep(picture, job.noun.model, job.watch)
        if job.keep:
            job.noun = replace(job.noun, pictures=[self._files.keep(data) for data in job.files])
            job.files = []

    def _write(self, job: Job) -> "asyncio.Future[None]":
        noun = job.noun
        future = asyncio.get_running_loop().run_in_executor(self._writer, self._record.put, noun)
        future.add_done_callback(self._heard)
        return future

    def _heard(self, future: "asyncio.Future[None]") -> None:
        if not future.cancelled() and (error := future.exception()):
            self._metrics.errors.labels(type(error).__name__).inc()
            _log.error("a job could not be recorded: %s", error)


def new_job_id() -> str:
    """Opaque, and not to be guessed."""
    return f"job-{secrets.token_hex(16)}"
