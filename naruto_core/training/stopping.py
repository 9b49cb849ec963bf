"""Ctrl-C, and the polite kill of a scheduler, between two steps instead of in the middle of one."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Stop:
    """Inside the block, the first SIGINT or SIGTERM only sets `asked`; a second one interrupts as ever.

    Signals can be heard in the main thread alone: elsewhere `asked` stays False.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, deaf: bool = False) -> None:
        """`deaf`: take no notice of Ctrl-C, because somebody else stops and takes this process along."""
        self.asked: int | None = None
        self._deaf = deaf
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        if self._deaf:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            for number in self._SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # of a job in the background, Ctrl-C is no business
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.asked = number
        self._give_back()

    def obey(self) -> None:
        """Let the signal that was heard do what it would have done at once."""
        if self.asked is not None:
            signal.raise_signal(self.asked)
