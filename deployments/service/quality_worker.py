"""The quality of served pictures: a sample is kept with its prompt, and a process of low priority measures it."""

import hashlib
import hmac
import logging
import os
import random
import secrets
import shutil
import subprocess
import sys
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
_MOST_WAITING = 500  # where nobody measures, no disk is filled


class Sampler:
    """Keeps a `share` of pictures in `folder`. `key` makes of a prompt what equals only that of an equal prompt."""

    def __init__(self, folder: Path, share: float, key: bytes) -> None:
        self._folder, self._share, self._key = folder, share, key

    def chosen(self) -> bool:
        """Whether the next picture is one of those; asked before there is one."""
        return self._share > 0 and random.random() < self._share

    def keep(self, picture: "Image", run_id: str, prompt: str) -> None:
        """Lay a picture aside, unless too many wait already. A full disk is one line: whoever asked has the picture."""
        if sum(1 for _ in self._folder.glob(f"*{picture_file.SUFFIX}")) >= _MOST_WAITING:
            return
        facts: dict[str, object] = {
            "run": run_id, "prompt": prompt, "asked": self._mark(prompt), "drawn_at": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        try:
            save_picture(picture, self._folder / f"{secrets.token_hex(16)}{picture_file.SUFFIX}", facts)
        except StorageFailed as error:
            _log.warning("a picture could not be laid aside: %s", error)

    def _mark(self, prompt: str) -> str:
        return hmac.new(self._key, prompt.encode(), hashlib.sha256).hexdigest()[:16]


_PATIENCE = 60.0  # seconds before one that has ended is started again


class QualityWorker:
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
