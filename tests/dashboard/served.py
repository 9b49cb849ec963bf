"""The dashboard as users run it: a process, reached over HTTP."""

import os
import pkgutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from dashboard import views
from tests.preloaded import Preloaded, Program, preloaded

ROOT = Path(__file__).parents[2]


@dataclass
class Served:
    """A dashboard at `address`, on the NARUTO_HOME `home`; `stop` kills it."""

    programs: Preloaded
    home: Path
    port: int
    host: str = "127.0.0.1"
    process: Program | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.home / "dashboard.log").open("ab") as log:
            self.process = self.programs.start(
                "streamlit", "run", str(ROOT / "dashboard" / "server.py"),
                "--server.port", str(self.port), "--server.address", self.host, "--server.headless", "true",
                "--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none",
                environment=os.environ | {"NARUTO_HOME": str(self.home)}, output=log,
            )  # fmt: skip
        for _ in range(600):
            try:
                if httpx2.get(f"{self.address}/_stcore/health").status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.05)
        raise AssertionError((self.home / "dashboard.log").read_text())

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@contextmanager
def dashboards() -> Iterator[Preloaded]:
    """What starts dashboards: Streamlit and the pages' modules are loaded once for all of them."""
    pages = [module.name for module in pkgutil.iter_modules(views.__path__, "dashboard.views.")]
    with preloaded(["streamlit.web.cli", "dashboard.server", *pages], os.environ) as programs:
        yield programs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
