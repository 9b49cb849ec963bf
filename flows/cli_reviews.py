"""Commands of human evaluation: people and their links, and the votes of a campaign."""

from pathlib import Path
from typing import Annotated

import typer

people = typer.Typer(no_args_is_help=True, help="The people of the dashboard, and their personal links.")
votes = typer.Typer(no_args_is_help=True, help="The votes of campaigns.")


@people.command("list")
def list_people(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """List everybody who is registered, with their role."""
    from flows.terminal import Listing, columns, print_listing
    from naruto_core.settings import read_settings
    from naruto_core.store.database import open_database

    with open_database(read_settings().database_url) as database:
        registered = database.ratings.reviewers()
    rows = [{"name": person.name, "role": person.role.value, "email": person.email} for person in registered]
    text = columns([["name", "role", "email"], *(list(row.values()) for row in rows)])
    nobody = "nobody is registered: add yourself on the dashboard's page Campaigns (make dashboard)."
    print_listing(Listing(rows, text if rows else nobody), as_json)


@people.command("link")
def make_link(
    name: Annotated[str, typer.Argument(help="The name, as `naruto people list` shows it.")],
    address: Annotated[str, typer.Option("--address", help="Where the dashboard is opened.")] = "http://127.0.0.1:8501",
) -> None:
    """Make a new personal link for somebody who lost theirs; the old link stops working."""
    from naruto_core.settings import read_settings
    from naruto_core.store.database import open_database

    with open_database(read_settings().database_url) as database:
        token = database.ratings.renew_link(name=name)
    print(f"{address.rstrip('/')}/enter/{token}")


@votes.command("export")
def export_votes(
    campaign: Annotated[str, typer.Argument(help="The name of a campaign.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The CSV file to write; else it is printed.")
    ] = None,
) -> None:
    """Write every vote of a campaign as CSV: models, answer, time, reviewer's id; repeats and gold pairs are marked."""
    from naruto_core.artifacts import write_atomically
    from naruto_core.errors import NotRecorded, amount
    from naruto_core.judging.vote_table import votes_csv
    from naruto_core.settings import read_settings
    from naruto_core.store.database import open_database

    with open_database(read_settings().database_url) as database:
        ids = {recorded.name: recorded.id for recorded in database.ratings.campaigns()}
        if campaign not in ids:
            raise NotRecorded(f"there is no campaign {campaign!r}; campaigns: {', '.join(ids) or 'none'}.")
        ratings = database.ratings.ratings(ids[campaign])
    text = votes_csv(ratings)
    if output is None:
        print(text, end="")
    else:
        write_atomically(output, text.encode())
        print(f"wrote {amount(len(ratings), 'vote')} to {output}")


@votes.command("recount")
def recount_votes() -> None:
    """Count assignments and open units of all campaigns again from their votes; print which counts were wrong."""
    from naruto_core.settings import read_settings
    from naruto_core.store.database import open_database

    with open_database(read_settings().database_url) as database:
        wrong = database.ratings.wrong_counts()
        if wrong:
            database.ratings.recount()
    for counts in wrong:
        print(f"{counts.campaign}: {counts.sentence}; counted again.")
    if not wrong:
        print("every stored count is right.")
