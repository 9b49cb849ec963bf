"""The process that measures what is served, beside the one that draws: at the lowest priority, and never on the GPU."""

import logging
import os
import shutil
import subprocess
import sys
import time

from naruto_core.settings import Settings

_log = logging.getLogger("naruto.service")
_PATIENCE = 60.0  # seconds before one that has ended is started again


class Watching:
    """`naruto watch --follow` as a child, which ends when this process does, however that ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None
        self._started = float("-inf")

    def keep_going(self) -> None:
        """Start it, or start it again when it has ended."""
        if (self._child and self._child.poll() is None) or time.monotonic() - self._started < _PATIENCE:
            return
        if self._child:
            _log.error("the process that measures served pictures has ended with %s", self._child.returncode)
        command = [sys.executable, "-m", "flows", "watch", "--follow", "--pid", str(os.getpid())]
        theirs = {
            "NARUTO_HOME": str(self._settings.root), "NARUTO_DATABASE": self._settings.database,
            "NARUTO_DEVICE": "cpu", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        if nice := shutil.which("nice"):
            command = [nice, "-n", "19", *command]
        self._child = subprocess.Popen(command, env=os.environ | theirs, stdin=subprocess.DEVNULL)  # noqa: S603
        self._started = time.monotonic()

    def stop(self) -> None:
        """End it; what it has not measured waits for the next one."""
        if self._child:
            self._child.terminate()
            self._child.wait()
