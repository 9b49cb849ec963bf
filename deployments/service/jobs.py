"""Jobs: one request for pictures each, from the queue to the reply, and its record in the database."""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from opentelemetry import context

from deployments.service.engine import Engine, QueueItem
from deployments.service.errors import ApiError
from deployments.service.image_files import ImageFiles
from deployments.service.metrics import Metrics
from deployments.service.model_registry import ModelSpec
from deployments.service.moderation import Moderator
from deployments.service.quality_worker import QualitySampler
from deployments.service.tracing import record_spans
from naruto_core.continuous_batching import Order
from naruto_core.picture_file import PNG, SentEncoding, encode_sent_picture
from naruto_core.serving import OPEN, JobState, ServiceJob
from naruto_core.store.service_jobs import ServiceJobs

if TYPE_CHECKING:
    from PIL.Image import Image

_JOBS_IN_MEMORY = 1000  # finished ones; the database has all
_log = logging.getLogger("naruto.service")


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What becomes of the pictures of a request.

    `as_files`: they are stored, to be fetched by URL; else the reply has them. `sample_prompt` is the client's prompt
    if they may be sampled for quality measurement, else empty. `warning` is shown with the job.
    """

    as_files: bool
    encoding: SentEncoding = PNG
    sample_prompt: str = ""
    warning: str = ""


class Job:
    """A request in progress: its `record` for the database, its pictures in the queue, and what is drawn of them.

    Lives in the event loop; the engine's thread reaches it through `call_soon_threadsafe` only.
    """

    def __init__(self, record: ServiceJob, spec: ModelSpec, orders: list[Order], options: JobOptions) -> None:
        """See `Jobs.submit`."""
        self.record, self.options = record, options
        self.refused = False  # by the moderator
        self.interrupted = False  # by the end of the service: the same request may succeed
        self.trace = context.get_current()  # that of the request
        self.files: list[bytes] = []  # the encoded pictures, for the reply
        self.previews: asyncio.Queue[Image] = asyncio.Queue()
        self.drawn = asyncio.Event()  # every picture is drawn, or none will be
        self.ended = asyncio.Event()  # `record` has its final state
        self._steps = [0] * len(orders)
        self._pictures: dict[int, Image] = {}
        loop = asyncio.get_running_loop()

        def queue_item(number: int, order: Order) -> QueueItem:
            return QueueItem(
                spec, record.height, record.width, order,
                on_step=lambda step: self._on_step(loop, number, step),
                on_picture=lambda picture: _call_soon(loop, self._on_picture, number, picture),
                on_failure=lambda reason: _call_soon(loop, self.fail, reason),
                on_preview=lambda picture: _call_soon(loop, self.previews.put_nowait, picture),
            )  # fmt: skip

        self.items = [queue_item(number, order) for number, order in enumerate(orders)]

    @property
    def steps_done(self) -> int:
        return sum(self._steps)

    def fail(self, reason: str) -> None:
        """End with `reason`; the first reason counts."""
        if self.record.state in OPEN and not self.record.failure:
            self.record = replace(self.record, failure=reason)
            self.drawn.set()

    def take_pictures(self) -> "list[tuple[Order, Image]]":
        """The pictures with their orders, which this object does not hold any more."""
        pictures, self._pictures = self._pictures, {}
        return [(item.order, pictures[number]) for number, item in enumerate(self.items)]

    def drop_pictures(self) -> None:
        """Free the memory of pictures that will not be sent."""
        self._pictures = {}

    def _on_step(self, loop: asyncio.AbstractEventLoop, number: int, step: int) -> None:
        """In the engine's thread. It does not wake the event loop at every step: `Jobs.progress` reads `steps_done`."""
        if not any(self._steps):
            _call_soon(loop, self._on_start)
        self._steps[number] = step

    def _on_start(self) -> None:
        if self.record.state is JobState.QUEUED:
            self.record = replace(self.record, state=JobState.RUNNING, started_at=datetime.now(UTC))

    def _on_picture(self, number: int, picture: "Image") -> None:
        self._pictures[number] = picture
        if len(self._pictures) == len(self.items):
            self.drawn.set()


def _call_soon(loop: asyncio.AbstractEventLoop, *call: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(*call)  # type: ignore[arg-type]


class Jobs:
    """The jobs of this process; the database also has those of other processes and of earlier ones."""

    def __init__(
        self, engine: Engine, store: ServiceJobs, image_files: ImageFiles, moderator: Moderator,
        sampler: QualitySampler, metrics: Metrics,
    ) -> None:  # fmt: skip
        self._engine, self._store, self._image_files = engine, store, image_files
        self._moderator, self._sampler, self._metrics = moderator, sampler, metrics
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer = ThreadPoolExecutor(1, "record")  # one thread, so that states are written in their order

    async def submit(self, record: ServiceJob, spec: ModelSpec, orders: list[Order], options: JobOptions) -> Job:
        """Queue a request; ApiError if the queue is full."""
        job = Job(record, spec, orders, options)
        self._engine.submit(job.items)
        self._jobs[record.id] = job
        while len(self._jobs) > _JOBS_IN_MEMORY and next(iter(self._jobs.values())).record.state not in OPEN:
            self._jobs.popitem(last=False)
        written = self._write(job)
        if options.as_files:
            await written
        task = asyncio.create_task(self._complete(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    def get(self, job_id: str) -> Job | None:
        """The job, if this process has it in memory."""
        return self._jobs.get(job_id)

    def cancel(self, job: Job) -> None:
        """Stop drawing at the next step; a job that has ended stays as it is."""
        if job.record.state in OPEN:
            self._engine.cancel(job.items)
            job.record = replace(job.record, state=JobState.CANCELLED)
            job.drawn.set()

    async def progress(self, job: Job) -> AsyncIterator[None]:
        """Yields at every change, at most ten times a second, and once at the end."""
        steps = -1
        while not job.ended.is_set():
            if job.steps_done != steps:
                steps = job.steps_done
                yield
            with suppress(TimeoutError):
                await asyncio.wait_for(job.ended.wait(), 0.1)
        yield

    async def previews(self, job: Job) -> AsyncIterator[bytes]:
        """The previews of a job as files, as they come, until it has ended; not those that the moderator refuses."""
        ended = asyncio.create_task(job.ended.wait())
        try:
            while True:
                preview = asyncio.create_task(job.previews.get())
                await asyncio.wait((ended, preview), return_when=asyncio.FIRST_COMPLETED)
                if not preview.done():
                    preview.cancel()
                    return
                picture = preview.result()
                if not await asyncio.to_thread(self._moderator.picture, picture):
                    yield await asyncio.to_thread(encode_sent_picture, picture, {}, job.options.encoding)
        finally:
            ended.cancel()

    async def close(self) -> None:
        """Fail the jobs that are still open, and wait until every state is written."""
        for job in self._jobs.values():
            if job.record.state in OPEN:
                job.interrupted = True
                job.fail("the service was stopped before the pictures were drawn; try again.")
        await asyncio.gather(*self._tasks)
        await asyncio.to_thread(self._writer.shutdown)

    async def _complete(self, job: Job) -> None:
        """Wait for the pictures, prepare the reply, and write the final state."""
        await job.drawn.wait()
        try:
            if job.record.state is not JobState.CANCELLED and not job.record.failure:
                await asyncio.to_thread(self._encode, job)
        except Exception as error:  # noqa: BLE001 (the client must get an answer, whatever the error is)
            self._metrics.errors.labels(type(error).__name__).inc()
            _log.exception("the pictures of a job could not be encoded")
            job.record = replace(job.record, failure="the pictures could not be written; see the service's log.")
        if job.record.failure:
            self._engine.cancel(job.items)
        job.record = replace(job.record, state=_final_state(job), finished_at=datetime.now(UTC))
        job.drop_pictures()
        self._metrics.pictures.labels(job.record.state).inc(len(job.items))
        job.ended.set()
        record_spans(job.record, job.trace)
        if not job.options.as_files:  # the reply has the pictures: free their memory; the database has the rest
            self._jobs.pop(job.record.id, None)
        self._write(job)

    def _encode(self, job: Job) -> None:
        """Moderate the pictures, encode them with their settings, and sample some. Runs in a thread."""
        for order, picture in job.take_pictures():
            if reason := self._moderator.picture(picture):
                job.record, job.refused = replace(job.record, failure=f"A picture was refused: {reason}."), True
                return
            settings: dict[str, object] = {
                "model": job.record.model, "prompt": order.text, "negative_prompt": order.negative_prompt,
                "seed": order.seed, "num_inference_steps": order.num_inference_steps,
                "guidance_scale": order.guidance_scale,
            }  # fmt: skip
            job.files.append(encode_sent_picture(picture, settings, job.options.encoding))
            if job.options.sample_prompt and self._sampler.select():
                self._sampler.save(picture, job.record.model, job.options.sample_prompt)
        if job.options.as_files:
            file_format = job.options.encoding.file_format
            job.record = replace(job.record, pictures=[self._image_files.save(data, file_format) for data in job.files])
            job.files = []

    def _write(self, job: Job) -> "asyncio.Future[None]":
        record = job.record
        future = asyncio.get_running_loop().run_in_executor(self._writer, self._store.put, record)
        future.add_done_callback(self._log_write_error)
        return future

    def _log_write_error(self, future: "asyncio.Future[None]") -> None:
        if not future.cancelled() and (error := future.exception()):
            self._metrics.errors.labels(type(error).__name__).inc()
            _log.error("a job could not be recorded: %s", error)


def _final_state(job: Job) -> JobState:
    if job.record.state is JobState.CANCELLED:
        return JobState.CANCELLED
    if job.record.failure:
        return JobState.REFUSED if job.refused else JobState.FAILED
    return JobState.DONE


def job_error(record: ServiceJob, *, interrupted: bool = False) -> ApiError:
    """Why a job that has ended has no pictures; `interrupted`: by the end of the service."""
    if record.state is JobState.REFUSED:
        return ApiError(400, record.failure, param="prompt", code="content_policy_violation")
    if record.state is JobState.LOST or (record.state is JobState.FAILED and interrupted):
        return ApiError(503, record.failure, code="shutting_down", wait=5)
    if record.state is JobState.FAILED:
        return ApiError(500, record.failure, code="failed", final=True)
    return ApiError(409, "The request was cancelled.", code="cancelled", final=True)


def new_job_id() -> str:
    """An id that cannot be guessed."""
    return f"job-{secrets.token_hex(16)}"
