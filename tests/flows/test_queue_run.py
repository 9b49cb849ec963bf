"""`naruto queue`, against the session's Prefect server."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from deployments.prefect import deploy
from flows.cli_runs import queue_run
from flows.train_naruto import train_naruto
from naruto_core.errors import ServiceFailed


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def test_a_run_is_queued_with_its_recipe_dataset_values_and_who_asked(client: SyncPrefectClient) -> None:
    with pytest.raises(ServiceFailed, match="has no deployment train-naruto/train-naruto: `python -m deployments"):
        queue_run("mini", None, {}, "Lea")
    deployment = client.create_deployment(client.create_flow(train_naruto), "train-naruto")
    sentence = queue_run("mini", "world:naruto?count=9", {"training.rank": 8}, "Lea")
    (queued,) = [run for run in client.read_flow_runs() if run.deployment_id == deployment]
    assert sentence.startswith(f"queued as {queued.name}; http://")
    assert sentence.endswith(f"/runs/flow-run/{queued.id} shows it.")
    assert queued.parameters == {
        "profile": "mini", "dataset": "world:naruto?count=9", "overrides": {"training.rank": 8},
    }  # fmt: skip
    assert queued.tags == ["asked by Lea"]
    assert queued.state is not None
    assert queued.state.is_scheduled()


def test_without_a_server_or_an_answer_the_sentence_names_the_other_command() -> None:
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ServiceFailed, match=r"no Prefect server is configured: set PREFECT_API_URL .* use `naruto run`"),
    ):
        queue_run("mini", None, {}, "")
    nobody = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(nobody), pytest.raises(ServiceFailed, match="does not answer: start it with `make up`"):
        queue_run("mini", None, {}, "")


class _Page(BaseHTTPRequestHandler):
    """A server that answers everything with a page, as Prefect's does where /api is missing in the address."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html>")

    do_POST = do_GET  # noqa: N815


def test_an_address_without_prefects_api_is_a_sentence() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}"}):
                with pytest.raises(ServiceFailed, match="is not Prefect's API: set PREFECT_API_URL"):
                    queue_run("mini", None, {}, "")
                with pytest.raises(SystemExit, match="is not Prefect's API: set PREFECT_API_URL"):
                    deploy.main()
        finally:
            server.shutdown()
