"""A bare name resolves to its deployment; every other name is left to Prefect."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.plugins import HookContext

from deployments.prefect.bare_names import setup_environment


async def create(*names: str) -> None:
    """Create a deployment for each FLOW/DEPLOYMENT."""
    async with get_client() as client:
        for name in names:
            flow_name, deployment = name.split("/")
            flow_id = await client.create_flow_from_name(flow_name)
            await client.create_deployment(flow_id, deployment)


async def resolve(name: str) -> str:
    """What Prefect's client finds under `name`, as FLOW/DEPLOYMENT."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(name)
        return f"{(await client.read_flow(deployment.flow_id)).name}/{deployment.name}"


@pytest.fixture
def bare(prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Applies the hook to a client without it, and removes it afterwards."""
    from prefect.client.orchestration._deployments.client import DeploymentAsyncClient as Client

    original = getattr(Client.read_deployment_by_name, "__wrapped__", Client.read_deployment_by_name)
    monkeypatch.setattr(Client, "read_deployment_by_name", original)
    setup_environment(ctx=HookContext("", None, logging.getLogger))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@pytest.mark.usefixtures("bare")
def test_a_bare_name_means_the_only_deployment_of_that_name() -> None:
    run(create("cook/ramen"))
    assert run(resolve("ramen")) == "cook/ramen"
    assert run(resolve("cook/ramen")) == "cook/ramen"


@pytest.mark.usefixtures("bare")
def test_a_name_of_two_deployments_is_an_error_with_both_full_names() -> None:
    run(create("sweep/daily", "mop/daily"))
    with pytest.raises(ValueError, match="2 deployments are called daily: use mop/daily or sweep/daily"):
        run(resolve("daily"))
    assert run(resolve("mop/daily")) == "mop/daily"


@pytest.mark.usefixtures("bare")
def test_an_unknown_name_gets_prefects_own_error() -> None:
    with pytest.raises(ValueError, match="Expected format: <FLOW_NAME>/<DEPLOYMENT_NAME>"):
        run(resolve("nobody"))
    with pytest.raises(ObjectNotFound):
        run(resolve("cook/nobody"))
