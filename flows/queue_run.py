"""What `naruto queue` does: a flow run of the deployment `train-naruto` on the Prefect server."""

from collections.abc import Mapping
from typing import Any

from naruto_core.errors import ServiceFailed

_DEPLOYMENT = "train-naruto/train-naruto"


def queue_run(profile: str, dataset: str | None, overrides: Mapping[str, Any], by: str) -> str:
    """Create a flow run and return a sentence with its name. Raises ServiceFailed where there is no server, no answer,
    no deployment, or where the server refuses the parameters."""
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value()
    if not address:
        raise ServiceFailed(
            "no Prefect server is configured: set PREFECT_API_URL to its address, which `make up` prints, or use "
            "`naruto run` in place of `naruto queue`."
        )
    from httpx import HTTPError, HTTPStatusError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    parameters = {"profile": profile, "dataset": dataset, "overrides": dict(overrides) or None}
    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(_DEPLOYMENT)
            tags = [f"asked by {by}"] if by else []
            created = client.create_flow_run_from_deployment(deployment.id, parameters=parameters, tags=tags)
    except ObjectNotFound:
        raise ServiceFailed(
            f"the Prefect server at {address} has no deployment {_DEPLOYMENT}: "
            "`python -m deployments.prefect.deploy` writes it."
        ) from None
    except HTTPStatusError as error:
        reason = " ".join(error.response.text.split())[:300]
        raise ServiceFailed(f"the Prefect server at {address} refused the run: {reason}") from None
    except HTTPError:
        raise ServiceFailed(
            f"the Prefect server at {address} does not answer: start it with `make up`, or use `naruto run` in place "
            "of `naruto queue`."
        ) from None
    return f"queued as {created.name}; {address.removesuffix('/api')}/runs/flow-run/{created.id} shows it."
