"""Commands that queue or change runs: queue, tag, note, stop, delete, gc and promote."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from flows.cli_export import RunName
from flows.process import check_recipe, settle_libraries
from naruto_core.errors import ServiceFailed

changes = typer.Typer()
_DEPLOYMENT = "train-naruto/train-naruto"

_SIGNED = {"ignore_unknown_options": True, "help_option_names": ["--help"]}  # -draft is a tag, not options


@changes.command()
def queue(
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Profile (mini, t4).")] = "mini",
    dataset: Annotated[str | None, typer.Option(help="Pictures to use instead of the recipe's, as in `run`.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe.")
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Who asks for it: a tag of the flow run.")] = "",
) -> None:
    """Queue a run on the Prefect server at PREFECT_API_URL, whose worker starts it when the device is free."""
    settle_libraries()
    from naruto_core.recipe import overrides_from_text

    overrides = overrides_from_text(settings or [])
    check_recipe(recipe, dataset, overrides)
    print(queue_run(recipe, dataset, overrides, by))


@changes.command(context_settings=_SIGNED)
def tag(
    name: RunName,
    tags: Annotated[list[str], typer.Argument(metavar="+TAG|-TAG", help="+good adds a tag, -draft removes one.")],
) -> None:
    """Add tags to a run and remove them; print its tags."""
    from flows.run_changes import change_tags

    print(change_tags(name, tags))


@changes.command()
def note(name: RunName, text: Annotated[str, typer.Argument(help="What to remember of this run.")]) -> None:
    """Write a note on a run; `naruto show` prints it."""
    from flows.run_changes import add_note

    print(add_note(name, text))


@changes.command()
def stop(name: RunName) -> None:
    """Ask a run to stop at its next safe point, also on another machine; the same `naruto run` resumes it."""
    from flows.run_changes import request_stop

    print(request_stop(name))


@changes.command()
def delete(
    name: RunName, yes: Annotated[bool, typer.Option("--yes", help="Delete without a question.")] = False
) -> None:
    """Delete a run: its scores, pictures, adapter and models. The champion and a run at work are refused."""
    from flows.run_changes import delete_run, deletion_question

    if not yes and not typer.confirm(deletion_question(name)):
        print("nothing was deleted.")
        return
    print(delete_run(name))


@changes.command()
def gc(
    keep: Annotated[
        str, typer.Option("--keep", help="Runs to leave alone: champion, tagged, tag=NAME, last=N; with commas.")
    ] = "champion,tagged,last=5",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would go.")] = False,
) -> None:
    """Free disk space: remove what can be made again (fused models first), and what killed processes left."""
    from flows.run_changes import collect_garbage

    print(collect_garbage(keep, dry_run=dry_run))


@changes.command()
def promote(
    name: RunName,
    by: Annotated[str, typer.Option("--by", help="Who decides.")],
    why: Annotated[str, typer.Option("--why", help="The reason.")],
    accept_warnings: Annotated[
        str, typer.Option("--accept-warnings", metavar="RUN", help="The run's whole id, if it has warnings.")
    ] = "",
) -> None:
    """Make a run the champion, as the dashboard's page does; refused if it is not done, scored and whole."""
    from flows.run_changes import promote_run

    print(promote_run(name, by, why, accept_warnings))


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
    from json import JSONDecodeError

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
    except JSONDecodeError:  # a page, as Prefect's own server sends it where "/api" is missing
        raise ServiceFailed(
            f"what answers at {address} is not Prefect's API: set PREFECT_API_URL to its address, which ends with /api."
        ) from None
    except HTTPError:
        raise ServiceFailed(
            f"the Prefect server at {address} does not answer: start it with `make up`, or use `naruto run` in place "
            "of `naruto queue`."
        ) from None
    return f"queued as {created.name}; {address.removesuffix('/api')}/runs/flow-run/{created.id} shows it."
