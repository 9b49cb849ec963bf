"""Quality of served pictures: a sample of them is saved with its prompts, and a child process measures it."""

import hashlib
import hmac
import logging
import os
import random
import secrets
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from naruto_core import picture_file
from naruto_core.errors import StorageFailed
from naruto_core.generation import save_picture
from naruto_core.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image


_log = logging.getLogger("naruto.service")
_MAX_WAITING = 500  # pictures, so that the disk does not fill if no worker measures them
_RESTART_SECONDS = 60.0


class QualitySampler:
    """Saves a random `share` of served pictures in `folder`, for the worker.

    `key` signs prompts: equal prompts have equal signatures, and a prompt cannot be read from its signature.
    """

    def __init__(self, folder: Path, share: float, key: bytes) -> None:
        self._folder, self._share, self._key = folder, share, key

    def select(self) -> bool:
        """Whether to save the next picture."""
        return self._share > 0 and random.random() < self._share

    def save(self, picture: "Image", run_id: str, prompt: str) -> None:
        """Save a picture, unless too many wait already. A full disk is logged only: the client has the picture."""
        if sum(1 for _ in self._folder.glob(f"*{picture_file.SUFFIX}")) >= _MAX_WAITING:
            return
        facts: dict[str, object] = {
            "run": run_id, "prompt": prompt, "asked": self._sign(prompt), "drawn_at": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        try:
            save_picture(picture, self._folder / f"{secrets.token_hex(16)}{picture_file.SUFFIX}", facts)
        except StorageFailed as error:
            _log.warning("a picture could not be saved for quality measurement: %s", error)

    def _sign(self, prompt: str) -> str:
        return hmac.new(self._key, prompt.encode(), hashlib.sha256).hexdigest()[:16]


class QualityWorker:
    """`naruto watch --follow` as a child process of low priority; it ends when this process ends, even by a kill."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._stopped = float("-inf"), False

    def ensure_running(self) -> None:
        """Start it if it does not run; after it has ended, at most once in 60 s."""
        running = self._process and self._process.poll() is None
        if running or time.monotonic() - self._started < _RESTART_SECONDS:
            return
        if self._process:
            _log.error("the quality worker ended with exit status %s; it is restarted", self._process.returncode)
        command = [sys.executable, "-m", "flows", "watch", "--follow", "--pid", str(os.getpid())]
        variables = {
            "NARUTO_HOME": str(self._settings.root), "NARUTO_DATABASE": self._settings.database,
            "NARUTO_DEVICE": "cpu", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        if nice := shutil.which("nice"):
            command = [nice, "-n", "19", *command]
        self._process = subprocess.Popen(  # noqa: S603
            command, env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._log_output, args=(self._process,), daemon=True).start()
        self._started = time.monotonic()

    def _log_output(self, process: subprocess.Popen[bytes]) -> None:
        """What the child prints becomes lines of the service's log, which are JSON."""
        for line in process.stdout or ():
            if (text := line.decode(errors="replace").strip()) and not self._stopped:
                _log.info("quality worker: %s", text)

    def stop(self) -> None:
        """Stop it; pictures that it has not measured wait for the next worker."""
        self._stopped = True
        if self._process:
            self._process.terminate()
            self._process.wait()
