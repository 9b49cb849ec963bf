"""Flow `promote`: show what is known of a run, wait until a person decides, and set the alias if they agree."""

from datetime import timedelta
from typing import Annotated

from prefect import flow
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment
from pydantic import Field

from naruto_core.store.promotions import CHAMPION
from tasks.promote import examine_candidate, set_alias

RunId = Annotated[str, Field(min_length=1)]
Days = Annotated[float, Field(gt=0, le=60)]


class Approval(RunInput):
    """The decision of a person; the same rules hold as on the dashboard's page Deploy."""

    approve: bool = Field(default=False, description="Promote the run.")
    by: str = Field(default="", description="Who decides.")
    why: str = Field(default="", description="The reason.")
    accept_warnings: str = Field(default="", description="If the run has warnings: its id, typed, to accept them.")


@flow(name="promote", flow_run_name="promote-{run}", result_serializer="json")
def promote(run: RunId, alias: str = CHAMPION, days: Days = 7.0) -> str:
    """Ask a person whether a run becomes the champion; a sentence on what was decided.

    A run that is not done, not scored or cannot be loaded is refused at once. With a deployment, no process waits:
    the flow ends, and starts again with the answer.

    Args:
        run: The id of the run, or a unique part of it.
        alias: What the run becomes.
        days: After so many days without an answer, the flow run fails and nothing is promoted.
    """
    candidate = examine_candidate(run)
    form = Approval.with_initial_data(description=candidate.description)
    seconds = int(timedelta(days=days).total_seconds())
    if deployment.id:
        answer = suspend_flow_run(wait_for_input=form, timeout=seconds, key="approval")
    else:
        answer = pause_flow_run(wait_for_input=form, timeout=seconds, key="approval", poll_interval=2)
    if not answer.approve:
        return f"{candidate.run_id} was not promoted: {answer.by or 'nobody'} declined. {answer.why}".strip()
    return set_alias(alias, candidate.run_id, answer.by, answer.why, answer.accept_warnings)
