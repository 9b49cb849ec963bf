"""What several rooms' tests need: a Prefect server and a model hub of their own."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.model_hub import ModelHub


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server in a temporary folder, for flows and clients of this process."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    # a flow run waits a second for its heartbeat thread to end
    quick = {PREFECT_HOME: home, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(quick), prefect_test_harness(server_startup_timeout=90), temporary_settings(quick):
        yield


@pytest.fixture
def hub() -> Iterator["ModelHub"]:
    """A model hub on this machine."""
    from tests.model_hub import serving

    with serving() as running:
        yield running
