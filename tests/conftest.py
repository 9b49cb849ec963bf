"""What several rooms' tests need: a Prefect server and a model hub of their own; and the order of the files."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.preloaded import fork_parent

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

    from tests.model_hub import ModelHub

# tests of a group run in one process, where they share a Prefect server; those of tests/flows one finished run too,
# except these, which make runs of their own
OWN_RUNS = (
    "tests/flows/test_few_prompts.py",
    "tests/flows/test_planted_copies.py",
    "tests/flows/test_review_commands.py",
    "tests/flows/test_sweep.py",
    "tests/flows/test_train_options.py",
    "tests/deployments/test_bare_names.py",
    "tests/tasks/test_captions.py",
)
ALONE = "tests/flows/test_exported_weights.py"  # asks for neither
LONG_ONES = (
    "tests/deployments/test_local_prefect.py",
    "tests/flows/",
    *OWN_RUNS,
    "tests/deployments/",
    "tests/dashboard/",
    "tests/naruto_core/training/",
)


gc.disable()  # while a million objects are made that stay: the modules that tests import


def pytest_collection_finish(session: pytest.Session) -> None:
    """Collections during the tests leave out what importing the modules has made; and programs are forked from that."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # with Python's own, each run of the flow takes 11 % more of the CPU
    gc.enable()
    if session.items and not session.config.option.collectonly:
        fork_parent()


def pytest_unconfigure() -> None:
    """Some libraries complain of what is left when the process ends."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that all processes of pytest-xdist end at about the same moment."""
    items.sort(key=lambda item: next((n for n, start in enumerate(LONG_ONES) if item.nodeid.startswith(start)), 9))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadFileScheduling | None":
    """With --dist loadfile: files in the order of the tests, those of a group in one process."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(OWN_RUNS):
                return "own runs"
            shared = nodeid.startswith("tests/flows/") and not nodeid.startswith(ALONE)
            return "shared run" if shared else super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def _one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One trusted certificate in place of all, which each new HTTP client reads in 36 ms of CPU; tests need none."""
    import certifi

    first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----\n")
    path = tmp_path_factory.mktemp("certificate") / "first.pem"
    path.write_text(first + end, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file without rows; tests copy it, because to make one takes 0.08 s."""
    from naruto_core.store.database import open_store

    path = tmp_path_factory.mktemp("database") / "naruto.db"
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server in a temporary folder, for flows and clients of this process."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME, temporary_settings
    from prefect.settings import PREFECT_SERVER_REGISTER_BLOCKS_ON_START as REGISTER_BLOCKS
    from prefect.settings import PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS as SLOT_WAIT
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    # a flow run waits a second for its heartbeat thread to end; kinds of blocks, which no test asks for, take 2 s;
    # a task waits for a place of its tag's limit in steps of 30 s
    quick = {PREFECT_HOME: home, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, REGISTER_BLOCKS: False, SLOT_WAIT: 0.2}
    with temporary_settings(quick), prefect_test_harness(server_startup_timeout=240), temporary_settings(quick):
        yield


@pytest.fixture
def hub() -> Iterator["ModelHub"]:
    """A model hub on this machine."""
    from tests.model_hub import serving

    with serving() as running:
        yield running
