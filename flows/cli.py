"""The `naruto` command: runs the flows and lists what the database holds. Thin; each command does one thing."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_export import RunName, exports
from flows.cli_import import imports
from flows.cli_reviews import people, votes
from flows.cli_runs import changes
from flows.cli_sweep import sweeps
from flows.process import check_recipe, collect_rarely, end_in_one_sentence, refuse_undecodable, settle_libraries
from flows.terminal import print_listing
from naruto_core.errors import NarutoError, RecipeInvalid

app = typer.Typer(
    name="naruto",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a small captioned picture set to a fine-tuned SDXL whose quality people can trust.",
    epilog="Start with:  naruto run --recipe mini      Data lives under NARUTO_HOME (default ./var).",
)

app.add_typer(exports, name="export")

_MOST_DAYS = 36_500  # of periods; longer ones are before all calendars of the libraries
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
Model = Annotated[
    str,
    typer.Argument(
        help="A run, or RUN:VARIANT with base, adapted or fused; HOME//RUN for a run of another NARUTO_HOME."
    ),
]


@app.command()
def run(
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Profile (mini, t4) or path of a recipe file.")
    ] = "mini",
    dataset: Annotated[
        str | None, typer.Option(help="Pictures to use instead of the recipe's: path, hub id, world:<style>.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe, e.g. training.rank=8."),
    ] = None,
) -> None:
    """Run the whole job: ingest, train, fuse, generate, score. If it is stopped, the same command resumes it."""
    settle_libraries()
    if os.environ.get("RANK", "0") != "0":  # one of several that `accelerate launch` has started: not the first
        from tasks.distributed import follow

        follow()
        return
    overrides = _overrides(settings)
    check_recipe(recipe, dataset, overrides)  # torch and Prefect take a while to start
    from flows.train_naruto import train_naruto
    from naruto_core import devices
    from naruto_core.settings import read_settings
    from naruto_core.training import distributed
    from tasks.pruning import raising_stops

    if (launched := distributed.launched_processes()) > 1:
        overrides.setdefault("training.processes", launched)
    with raising_stops(), distributed.process_group(devices.pick_device(read_settings().device)):
        train_naruto(recipe, dataset, overrides)


@app.command()
def plan(
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Profile (mini, t4) or path of a recipe file.")
    ] = "mini",
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="GPU", help="t4, l4, a10, 4090, a100 or h100; else this machine."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Pictures to use instead of the recipe's, as in `run`.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how long each phase of a run takes, and what it needs in memory and on the disk. Downloads nothing."""
    settle_libraries()
    overrides = _overrides(settings)
    check_recipe(recipe, dataset, overrides)
    from flows.plan import plan_recipe

    print_listing(plan_recipe(recipe, dataset, overrides, gpu), as_json)


@app.command()
def ingest(
    source: Annotated[
        str,
        typer.Argument(help="Folder of pictures, .zip, .tar, .parquet, save_to_disk folder, hub id or world:<style>."),
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="The recipe whose dataset section gives the other values.")
    ] = "mini",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. dataset.hold_out=0.")
    ] = None,
) -> None:
    """Check and store a captioned picture set; print what was kept, what was not, and why."""
    settle_libraries()
    overrides = _overrides(settings)
    from flows.profiles import choose_ingest

    choose_ingest(recipe, source, overrides)  # Prefect takes a while to start
    from flows.ingest import ingest_pictures

    ingest_pictures(recipe, source, overrides)


@app.command()
def captions(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="An ingested dataset: its id or its source.")],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="The recipe whose pair_extractor compares pictures with captions.")
    ] = "mini",
    words_only: Annotated[
        bool, typer.Option("--words-only", help="Check the text only: open no picture, load no model.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find wrong captions: empty, repeated, contradictory, or not what the picture shows."""
    settle_libraries()
    from flows.listings import list_caption_findings

    print_listing(list_caption_findings(dataset, recipe, words_only=words_only), as_json)


@app.command()
def recaption(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="An ingested dataset: its id or its source.")],
    model: Annotated[str, typer.Option("--model", help="A BLIP model with safetensors: folder or hub id.")],
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id, 40 hex digits.")] = None,
    only_flagged: Annotated[
        bool, typer.Option("--only-flagged", help="Only captions in which `naruto captions` finds a fault.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write the new set to.")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="The recipe, as for `naruto captions`.")] = "mini",
) -> None:
    """Write new captions with a BLIP model: a new dataset with the same pictures and the same held-out part."""
    settle_libraries()
    from flows.listings import recaption

    print(recaption(dataset, recipe, model, revision, folder, only_flagged=only_flagged))


@app.command()
def runs(as_json: AsJson = False) -> None:
    """List all runs, newest first, with their scores."""
    collect_rarely()
    from flows.listings import list_runs

    print_listing(list_runs(), as_json)


@app.command()
def show(name: RunName, as_json: AsJson = False) -> None:
    """Show one run: state, dataset, adapter, recipe, and the folder of its files."""
    collect_rarely()
    from flows.listings import show_run

    print_listing(show_run(name), as_json)


@app.command()
def scores(
    name: RunName,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write all scores, also those of single pictures, to a .csv or .parquet file."
        ),
    ] = None,
    all_of_them: Annotated[
        bool,
        typer.Option("--all", help="Every metric with interval, n and extractor, and every check."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the adapter changed: headline metrics of base, adapted and real pictures, and the warnings."""
    collect_rarely()
    from flows.score_listing import list_scores, write_scores

    if output:
        print(write_scores(name, output))
    else:
        print_listing(list_scores(name, all_of_them=all_of_them), as_json)


@app.command()
def rescore(name: RunName) -> None:
    """Measure a finished run again from stored features; print what changed. Exit 1 if a metric was not measured."""
    settle_libraries()
    collect_rarely()
    from tasks.rescore import rescore as rescore_run
    from tasks.rescore import unmeasured

    rescore_run(name)
    if missing := unmeasured(name):
        print(f"naruto: not measured: {missing}", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def compare(
    first: Model,
    second: Model,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown: a headline and a table.")] = False,
    if_there: Annotated[
        bool, typer.Option("--if-there", help="If a HOME has no database yet, print that, and exit 0.")
    ] = False,
    fail_on_worse: Annotated[
        bool, typer.Option("--fail-on-worse", help="Exit 1 if the second model is worse by a primary metric.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two models on the same prompts and seeds: differences, intervals, and a verdict on the second model."""
    settle_libraries()
    collect_rarely()
    from flows.comparison_listing import compared, list_comparison, nothing_to_compare

    if if_there and (nothing := nothing_to_compare(first, second)):
        print_listing(nothing, as_json)
        return
    try:
        comparison = compared(first, second)
    except NarutoError as error:
        if markdown:  # the page says it too, not the terminal alone
            print(f"**Not compared**: {error}")
        raise
    print_listing(list_comparison(comparison, markdown=markdown), as_json)
    if fail_on_worse and (worse := comparison.worse()):
        print(f"naruto: {second} is worse than {first} by {', '.join(worse)}.", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def report(
    name: RunName,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """Write one HTML page about a run: scores, verdicts, findings, pictures, nearest training pictures."""
    settle_libraries()
    collect_rarely()
    from flows.listings import write_page

    print(write_page(name, output))


@app.command()
def watch(
    days: Annotated[float, typer.Option("--days", min=0.01, help="Compare served pictures of so many days.")] = 1.0,
    follow: Annotated[bool, typer.Option("--follow", help="Score pictures as they arrive; compare nothing.")] = False,
    pid: Annotated[int | None, typer.Option("--pid", help="With --follow: end when this process ends.")] = None,
) -> None:
    """Print whether the promoted model still draws its samples, and whether served pictures drift from them."""
    settle_libraries()
    from flows import watch as watching

    if not days <= _MOST_DAYS:  # NaN is refused too
        raise RecipeInvalid(f"--days {days} is not a number up to {_MOST_DAYS:,}.")
    if pid is not None and not follow:
        raise RecipeInvalid("--pid needs --follow: add --follow, or leave --pid out.")
    if follow:
        watching.follow(pid)
    else:
        watching.watch(days)


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Compute every recorded hash again; exit 1 if a file is missing, altered or unrecorded."""
    collect_rarely()
    from flows.listings import verify_all

    findings = verify_all()
    print_listing(findings, as_json)
    if findings.rows:
        raise typer.Exit(1)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="The folder for the copy, e.g. on a mounted Drive.")],
    every: Annotated[
        float | None, typer.Option("--every", min=1, metavar="SECONDS", help="Repeat until it is stopped.")
    ] = None,
) -> None:
    """Copy NARUTO_HOME into a folder, also while a run goes on there; again: what is new or changed."""
    import time

    from naruto_core.settings import read_settings
    from naruto_core.store.backup import back_up

    if every is not None and not every <= _MOST_DAYS * 86_400:  # NaN is refused too
        raise RecipeInvalid(f"--every {every} is not a number of seconds up to {_MOST_DAYS:,} days.")
    while True:
        try:
            print(f"copied {back_up(read_settings(), folder).summary} to {folder}", flush=True)
        except NarutoError as error:
            if every is None:
                raise
            print(f"naruto: {error}", file=sys.stderr)  # no run has begun yet, or the folder is away for a while
        if every is None:
            return
        time.sleep(every)


@app.command()
def restore(folder: Annotated[Path, typer.Argument(help="A folder that `naruto backup` wrote.")]) -> None:
    """Copy a backup into NARUTO_HOME, which must have no database yet; `naruto run` then resumes."""
    from naruto_core.settings import read_settings
    from naruto_core.store.backup import restore as copy_back

    print(f"copied {copy_back(folder, read_settings()).summary} from {folder}")


def _overrides(settings: list[str] | None) -> dict[str, Any]:
    from naruto_core.recipe import overrides_from_text

    return overrides_from_text(settings or [])


app.add_typer(changes)
app.add_typer(people, name="people")
app.add_typer(votes, name="votes")
app.add_typer(imports, name="import", callback=settle_libraries, help=imports.info.help)
app.add_typer(sweeps, name="sweep", callback=settle_libraries, help=sweeps.info.help)


def main() -> None:
    """Entry point of the `naruto` command: a user's mistake is one sentence and exit status 1."""

    def command() -> None:
        refuse_undecodable(sys.argv[1:])
        app()

    end_in_one_sentence(command)
