"""Commands that change runs: tag, note, stop, delete, gc and promote."""

from typing import Annotated

import typer

from flows.cli_export import RunName

changes = typer.Typer()

_SIGNED = {"ignore_unknown_options": True, "help_option_names": ["--help"]}  # -draft is a tag, not options


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
