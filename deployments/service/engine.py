"""The thread that draws. Everything waits in one line; those at the front that look alike share a batch.

A batch takes in whoever waits for the same look and size, until somebody else has come to the front of the line: then
it runs out, and the next batch is theirs. So a picture joins at the next step when it can, and is never overtaken by
more than one batch.
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
from naruto_core.continuous_batching import ContinuousBatch, Order
from naruto_core.errors import NarutoError
from naruto_core.generation import padded_batch_size
from naruto_core.sampling import NotFinite

if TYPE_CHECKING:
    from PIL.Image import Image

_log = logging.getLogger("naruto.service")


@dataclass(eq=False)
class QueueItem:
    """One picture in line. The callbacks are called in the engine's thread and must return at once."""

    look: ModelSpec
    height: int
    width: int
    order: Order
    on_step: Callable[[int], None]
    on_picture: "Callable[[Image], None]"
    on_failure: Callable[[str], None]
    cancelled: bool = False
    asked: float = field(default_factory=time.monotonic)

    def alike(self, other: "QueueItem") -> bool:
        """Whether both can be in one batch."""
        return (self.height, self.width, self.look) == (other.height, other.width, other.look)


class Engine:
    """One thread, one device; `start` it, `submit` tickets, `stop` it."""

    def __init__(self, shelf: ModelCache, longest_queue: int, metrics: Metrics) -> None:
        self._shelf, self._longest, self._metrics = shelf, longest_queue, metrics
        self._waiting: deque[QueueItem] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._batch: ContinuousBatch | None = None
        self._model: QueueItem | None = None  # the batch's look and size, as those of whoever opened it
        self._places: dict[int, QueueItem] = {}
        self._pace = 1.0  # seconds between finished pictures while there is work
        self._finished = 0.0  # when the last one was
        metrics.queue.set_function(lambda: len(self._waiting))

    def start(self) -> None:
        self._thread.start()

    def submit(self, tickets: list[QueueItem]) -> None:
        """All of them or none: Refused with 429 when the line is too long or the service is going away."""
        with self._changed:
            if self._stopping:
                raise ApiError(503, "The service is shutting down; ask again.", code="shutting_down", wait=5)
            if len(self._waiting) + len(tickets) > self._longest:
                wait = len(self._waiting) * self._pace
                raise ApiError(429, "Too many pictures are waiting; ask again later.", code="queue_full", wait=wait)
            self._waiting.extend(tickets)
            self._changed.notify()

    def cancel(self, tickets: list[QueueItem]) -> None:
        """Take them out of the line, or out of the batch before its next step."""
        with self._changed:
            for ticket in tickets:
                ticket.cancelled = True
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.cancelled)

    def stop(self, seconds: float) -> bool:
        """Take nothing more, draw what was accepted for at most `seconds`; whether all of it was."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            left = [*self._waiting, *self._places.values()]
        self.cancel(left)
        return not left

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._places or self._stopping)
                if self._stopping and not self._waiting and not self._places:
                    return
                fresh = self._admit()
            try:
                self._draw(fresh)
            except Exception as error:  # noqa: BLE001 (whatever it is, those who wait must hear of it)
                self._fail(fresh, error)

    def _admit(self) -> list[QueueItem]:
        """Who joins now; called under the lock."""
        for number in [number for number, ticket in self._places.items() if ticket.cancelled]:
            del self._places[number]
            if self._batch:
                self._batch.leave(number)
        if not self._waiting:
            return []
        front = self._waiting[0]
        current = next(iter(self._places.values()), None)
        if current and not front.alike(current):
            return []  # it runs out, and the next batch is the front's
        room = padded_batch_size(front.look.section.batch_size) - len(self._places)
        chosen = [ticket for ticket in self._waiting if ticket.alike(front)][:room]
        taken = set(map(id, chosen))
        self._waiting = deque(ticket for ticket in self._waiting if id(ticket) not in taken)
        return chosen

    def _draw(self, fresh: list[QueueItem]) -> None:
        if fresh and not self._places:
            first = fresh[0]
            if not (self._batch and self._model and first.alike(self._model)):
                self._batch = self._model = None  # it holds its model, which the next one may need the memory of
                self._batch = ContinuousBatch(self._shelf.painter(first.look), first.height, first.width)
                self._model = first
        if not self._batch:
            return
        now = time.monotonic()
        for ticket in fresh:
            self._metrics.waited.observe(now - ticket.asked)
            self._places[self._batch.join(ticket.order)] = ticket
        if not self._places:
            return
        self._metrics.batch.observe(len(self._places))
        self._metrics.steps.inc()
        self._metrics.device_memory.set(self._shelf.device_memory())
        for number, told in self._batch.step().items():
            ticket = self._places[number]
            if isinstance(told, int):
                ticket.on_step(told)
            else:
                with self._changed:
                    del self._places[number]
                now = time.monotonic()
                self._pace += 0.1 * (now - max(self._finished, ticket.asked) - self._pace)
                self._finished = now
                ticket.on_step(ticket.order.num_inference_steps)
                if isinstance(told, NotFinite):
                    self._metrics.errors.labels("NotFinite").inc()
                    ticket.on_failure(str(told))
                else:
                    ticket.on_picture(told)

    def _fail(self, fresh: list[QueueItem], error: Exception) -> None:
        """Whoever was in the batch, or about to be, hears why; the next batch starts afresh."""
        self._metrics.errors.labels(type(error).__name__).inc()
        _log.error("a batch failed", exc_info=error)
        why = str(error) if isinstance(error, NarutoError) else "drawing failed; the service's log says why."
        with self._changed:
            hit = list({id(ticket): ticket for ticket in [*self._places.values(), *fresh]}.values())
            self._places, self._batch = {}, None
        for ticket in hit:
            ticket.on_failure(why)
