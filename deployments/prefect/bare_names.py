"""Lets `prefect deployment run train-naruto` name a deployment without its flow.

Prefect expects FLOW/DEPLOYMENT. It calls the start-up hooks of the entry point group `prefect.plugins`; the hook below
wraps the client's method that resolves a name. That method is not public: if a later Prefect has moved it, bare names
do not work and Prefect's log says so.
"""

from collections.abc import Callable
from functools import wraps
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from prefect.plugins import HookContext, register_hook

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse


Resolve = Callable[..., "CoroutineType[Any, Any, DeploymentResponse]"]


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Make this process's Prefect client accept bare names; called by Prefect when it is imported."""
    try:
        from prefect.client.orchestration._deployments.client import DeploymentAsyncClient as Client

        resolve = Client.read_deployment_by_name
    except (ImportError, AttributeError):
        ctx.logger_factory(__name__).warning("this Prefect resolves FLOW/DEPLOYMENT only; bare names are off")
        return
    Client.read_deployment_by_name = accept_bare_names(resolve)


def accept_bare_names(resolve: Resolve) -> Resolve:
    """`resolve`, but a name without a slash means the deployment of that name, if there is exactly one.

    Raises ValueError, listing the full names, if there are several.
    """

    @wraps(resolve)
    async def read_deployment_by_name(client: Any, name: str) -> "DeploymentResponse":
        deployments = [] if "/" in name else await _deployments_called(client, name)
        if len(deployments) > 1:
            flows = [(await client.read_flow(deployment.flow_id)).name for deployment in deployments]
            choices = " or ".join(sorted(f"{flow}/{name}" for flow in flows))
            raise ValueError(f"{len(deployments)} deployments are called {name}: use {choices}")
        return deployments[0] if deployments else await resolve(client, name)

    return read_deployment_by_name


async def _deployments_called(client: Any, name: str) -> "list[DeploymentResponse]":
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    return await client.read_deployments(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])))
