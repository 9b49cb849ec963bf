"""Prefect on this machine: its port, its folder, its two background programs, its environment.

The server listens on 127.0.0.1 only and keeps everything under NARUTO_HOME/prefect, never in the
user's own Prefect profile.
"""

import http.client
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from deployments.prefect.daemon import Daemon
from naruto_core.errors import ServiceFailed
from naruto_core.recipe_text import explain
from naruto_core.settings import Settings

HOST = "127.0.0.1"
PROJECT = Path(__file__).resolve().parents[2]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]
_TRIES = 10
_PAUSE_SECONDS = 0.3


class LocalSettings(Settings):
    """The settings of every command, and what only `make up` and `make down` read."""

    prefect_port: int = Field(default=4200, ge=1, le=65535, description="Where the local Prefect server listens.")


@dataclass(frozen=True, slots=True)
class LocalPrefect:
    """One Prefect server with its worker; `home` is NARUTO_HOME."""

    home: Path
    port: int

    @property
    def folder(self) -> Path:
        return self.home / "prefect"

    @property
    def server(self) -> Daemon:
        return Daemon("server", self.folder)

    @property
    def worker(self) -> Daemon:
        return Daemon("worker", self.folder)

    @property
    def ui(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def api(self) -> str:
        return f"{self.ui}/api"

    def environment(self) -> dict[str, str]:
        """What server, worker and flow runs find in their environment."""
        defaults = {"PREFECT_WORKER_QUERY_SECONDS": "2"}  # Prefect's 10 are for many workers of one server
        inherited = defaults | {name: value for name, value in os.environ.items() if name != "PREFECT_PROFILE"}
        return inherited | {
            "NARUTO_HOME": str(self.home),
            "NARUTO_PROJECT": str(PROJECT),
            "PREFECT_HOME": str(self.folder),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # leases in memory would be lost when the server restarts, and the runs that hold them killed
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            # bare names are for people; in Prefect's own processes the start-up hook only prints a warning
            "PREFECT_PLUGINS_ENABLED": "false",
        }

    def call(self, method: str, path: str, body: dict[str, Any] | list[Any] | None = None) -> tuple[int, Any]:
        """One request to the server's API: status and decoded answer; ServiceFailed when no Prefect answers."""
        for _ in range(_TRIES):
            status, answer = self._called(method, path, body)
            if status != http.HTTPStatus.SERVICE_UNAVAILABLE:  # what Prefect answers while its database is busy
                break
            time.sleep(_PAUSE_SECONDS)
        return status, answer

    def _called(self, method: str, path: str, body: dict[str, Any] | list[Any] | None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, f"/api{path}", payload, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServiceFailed(
                f"no Prefect server answers at {self.ui} ({error}); its log is {self.server.log}."
            ) from None
        finally:
            connection.close()

    def healthy(self) -> bool:
        """Whether a Prefect server answers at this port."""
        try:
            return self.call("GET", "/health") == (200, True)
        except ServiceFailed:
            return False


def read_local_prefect() -> LocalPrefect:
    """The local Prefect that this process's settings describe; ServiceFailed when they make no sense."""
    try:
        settings = LocalSettings()
    except ValidationError as error:
        raise ServiceFailed(
            f"a NARUTO_* environment variable cannot be used: {explain(error, LocalSettings)}"
        ) from None
    return LocalPrefect(settings.root, settings.prefect_port)
