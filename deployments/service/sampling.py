"""Some of what is served is laid aside with its prompt, for `naruto watch` to measure; it is removed when it was.

Only pictures that were drawn as a run's own samples were, by the run alone: others would rightly score otherwise.
"""

import hashlib
import hmac
import logging
import random
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from naruto_core.errors import StorageFailed
from naruto_core.generation import save_picture

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
        if sum(1 for _ in self._folder.glob("*.png")) >= _MOST_WAITING:
            return
        facts: dict[str, object] = {
            "run": run_id, "prompt": prompt, "asked": self._mark(prompt), "drawn_at": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        try:
            save_picture(picture, self._folder / f"{secrets.token_hex(16)}.png", facts)
        except StorageFailed as error:
            _log.warning("a picture could not be laid aside: %s", error)

    def _mark(self, prompt: str) -> str:
        return hmac.new(self._key, prompt.encode(), hashlib.sha256).hexdigest()[:16]
