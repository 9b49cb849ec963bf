"""The engine: one thread that takes pictures from a queue and draws them in continuous batches.

A batch draws pictures of one model and size. Waiting pictures join it between two steps, until a picture that does not
fit is first in the queue: then nothing joins any more, and when the batch has ended that picture starts the next one.
So a picture joins at the next step if it can, and waits for one batch of other pictures at most. The network gets as
many pictures as there are, or always the full batch where bytes must not depend on company (see `ContinuousBatch`).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployments.service.errors import ApiError
from deployments.service.metrics import Metrics
from deployments.service.model_cache import ModelCache
from deployments.service.model_registry import ModelSpec
from naruto_core.continuous_batching import ContinuousBatch, Order, Preview
from naruto_core.errors import NarutoError
from naruto_core.generation import padded_batch_size
from naruto_core.sampling import NotFinite

if TYPE_CHECKING:
    from PIL.Image import Image

_log = logging.getLogger("naruto.service")


@dataclass(eq=False)
class QueueItem:
    """One picture in the queue; `height` and `width` in pixels.

    The callbacks run in the engine's thread and must return at once: `on_step` gets the number of steps done,
    `on_preview` the previews that the order names, `on_failure` a sentence for the client.
    """

    spec: ModelSpec
    height: int
    width: int
    order: Order
    on_step: Callable[[int], None]
    on_picture: "Callable[[Image], None]"
    on_failure: Callable[[str], None]
    on_preview: "Callable[[Image], None]" = lambda _: None
    cancelled: bool = False
    queued_at: float = field(default_factory=time.monotonic)

    def fits(self, other: "QueueItem") -> bool:
        """Whether both can be in one batch: the same model and size."""
        return (self.height, self.width, self.spec) == (other.height, other.width, other.spec)


class Engine:
    """One thread for one device: `start` it, `submit` pictures, `stop` it."""

    def __init__(self, cache: ModelCache, queue_limit: int, metrics: Metrics, *, fixed_size: bool) -> None:
        """`fixed_size` is that of `ContinuousBatch`."""
        self._cache, self._queue_limit, self._metrics, self._fixed_size = cache, queue_limit, metrics, fixed_size
        self._queue: deque[QueueItem] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._batch: ContinuousBatch | None = None
        self._batch_opener: QueueItem | None = None  # the first picture of the batch: it has the batch's model and size
        self._drawing: dict[int, QueueItem] = {}  # by their numbers in the batch
        self._seconds_per_picture = 1.0  # moving average, while there is work
        self._last_finished = 0.0
        metrics.queue.set_function(lambda: len(self._queue))

    def start(self) -> None:
        self._thread.start()

    def submit(self, items: list[QueueItem]) -> None:
        """Queue all pictures of a request, or none: ApiError 429 if the queue is full, 503 during shutdown."""
        with self._changed:
            if self._stopping:
                raise ApiError(503, "The service is shutting down; try again.", code="shutting_down", wait=5)
            if len(self._queue) + len(items) > self._queue_limit:
                wait = len(self._queue) * self._seconds_per_picture
                raise ApiError(429, "The queue is full; try again later.", code="queue_full", wait=wait)
            self._queue.extend(items)
            self._changed.notify()

    def cancel(self, items: list[QueueItem]) -> None:
        """Remove pictures from the queue, or from the batch before its next step."""
        with self._changed:
            for item in items:
                item.cancelled = True
            self._queue = deque(item for item in self._queue if not item.cancelled)

    def stop(self, seconds: float) -> bool:
        """Accept nothing more and draw what was accepted, for at most `seconds`; whether all of it was drawn."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            unfinished = [*self._queue, *self._drawing.values()]
        self.cancel(unfinished)
        return not unfinished

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._drawing or self._stopping)
                if self._stopping and not self._queue and not self._drawing:
                    return
                joining = self._take_from_queue()
            try:
                self._step(joining)
            except Exception as error:  # noqa: BLE001 (the clients must get an answer, whatever the error is)
                self._fail(joining, error)

    def _take_from_queue(self) -> list[QueueItem]:
        """Drop cancelled pictures from the batch, and take those that join it; called under the lock."""
        for number in [number for number, item in self._drawing.items() if item.cancelled]:
            del self._drawing[number]
            if self._batch:
                self._batch.leave(number)
        if not self._queue:
            return []
        first = self._queue[0]
        current = next(iter(self._drawing.values()), None)
        if current and not first.fits(current):
            return []  # this batch ends, and `first` starts the next one
        free = padded_batch_size(first.spec.section.batch_size) - len(self._drawing)
        joining = [item for item in self._queue if item.fits(first)][:free]
        joining_ids = set(map(id, joining))
        self._queue = deque(item for item in self._queue if id(item) not in joining_ids)
        return joining

    def _step(self, joining: list[QueueItem]) -> None:
        """One denoising step of the batch, which `joining` enter before it."""
        if joining and not self._drawing:
            self._open_batch(joining[0])
        if not self._batch:
            return
        now = time.monotonic()
        for item in joining:
            self._metrics.waited.observe(now - item.queued_at)
            self._drawing[self._batch.join(item.order)] = item
        if not self._drawing:
            return
        self._metrics.batch.observe(len(self._drawing))
        self._metrics.steps.inc()
        self._metrics.device_memory.set(self._cache.device_memory())
        for number, result in self._batch.step().items():
            if isinstance(result, int):
                self._drawing[number].on_step(result)
            elif isinstance(result, Preview):
                self._drawing[number].on_step(result.step)
                self._drawing[number].on_preview(result.picture)
            else:
                self._finish(number, result)

    def _open_batch(self, first: QueueItem) -> None:
        """Make a batch for the model and size of `first`, unless the batch is of these already."""
        if self._batch and self._batch_opener and first.fits(self._batch_opener):
            return
        self._batch = self._batch_opener = None  # it holds its model, whose memory the next model may need
        painter = self._cache.painter(first.spec)
        self._batch = ContinuousBatch(painter, first.height, first.width, fixed_size=self._fixed_size)
        self._batch_opener = first

    def _finish(self, number: int, result: "Image | NotFinite") -> None:
        with self._changed:
            item = self._drawing.pop(number)
        now = time.monotonic()
        seconds = now - max(self._last_finished, item.queued_at)
        self._seconds_per_picture += 0.1 * (seconds - self._seconds_per_picture)
        self._last_finished = now
        item.on_step(item.order.num_inference_steps)
        if isinstance(result, NotFinite):
            self._metrics.errors.labels("NotFinite").inc()
            item.on_failure(str(result))
        else:
            item.on_picture(result)

    def _fail(self, joining: list[QueueItem], error: Exception) -> None:
        """Report `error` to all pictures of the batch; the next picture gets a new batch."""
        self._metrics.errors.labels(type(error).__name__).inc()
        _log.error("a batch failed", exc_info=error)
        reason = str(error) if isinstance(error, NarutoError) else "drawing failed; see the service's log."
        with self._changed:
            failed = list({id(item): item for item in [*self._drawing.values(), *joining]}.values())
            self._drawing, self._batch = {}, None
        for item in failed:
            item.on_failure(reason)
