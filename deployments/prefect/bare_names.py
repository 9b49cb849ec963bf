"""Lets `prefect deployment run train-naruto` name a deployment without its flow.

Prefect asks for FLOW/DEPLOYMENT and calls start-up hooks found under the entry point group
`prefect.plugins`. The hook below wraps the one client method that resolves a name. That method is
not public, so a Prefect that has moved it keeps its own behaviour and says so in its log.
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
    """Teach this process's Prefect client bare names; called by Prefect as it is imported."""
    try:
        from prefect.client.orchestration._deployments.client import DeploymentAsyncClient as Client

        resolve = Client.read_deployment_by_name
    except (ImportError, AttributeError):
        ctx.logger_factory(__name__).warning("this Prefect resolves FLOW/DEPLOYMENT only; bare names are off")
        return
    Client.read_deployment_by_name = accept_bare_names(resolve)


def accept_bare_names(resolve: Resolve) -> Resolve:
    """`resolve`, but a name without a slash that exactly one deployment bears means that deployment.

    Raises ValueError, listing the full names, when several bear it.
    """

    @wraps(resolve)
    async def read_deployment_by_name(client: Any, name: str) -> "DeploymentResponse":
        found = [] if "/" in name else await _deployments_called(client, name)
        if len(found) > 1:
            flows = [(await client.read_flow(deployment.flow_id)).name for deployment in found]
            choices = " or ".join(sorted(f"{flow}/{name}" for flow in flows))
            raise ValueError(f"{len(found)} deployments are called {name}: say {choices}")
        return found[0] if found else await resolve(client, name)

    return read_deployment_by_name


async def _deployments_called(client: Any, name: str) -> "list[DeploymentResponse]":
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    return await client.read_deployments(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])))
