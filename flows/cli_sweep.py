"""`naruto sweep ...`: train the settings of a sweep file and compare them."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _FileOrCommand(TyperGroup):
    """`naruto sweep FILE` is `naruto sweep run FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self.with_command(args))

    def with_command(self, args: list[str]) -> list[str]:
        """`args`, with `run` before a first word that is no command."""
        is_file = args and args[0] not in self.commands and args[0] not in ("-h", "--help")
        return ["run", *args] if is_file else args


sweeps = typer.Typer(
    cls=_FileOrCommand,
    no_args_is_help=True,
    help="Compare settings: `naruto sweep FILE` trains each of them with several seeds.",
)


@sweeps.command("run")
def run_sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file (.yaml).")],
    yes: Annotated[bool, typer.Option("--yes", help="Start more than 100 runs without a question.")] = False,
) -> None:
    """Run a sweep file and print the comparison; the word `run` may be left out. The same command resumes it."""
    from naruto_core.sweep import MANY_CELLS, read_sweep

    sweep_file = read_sweep(file)
    count = sweep_file.n_cells
    sweep_file.check_size()
    if count > MANY_CELLS and not yes and not typer.confirm(f"Start {count:,} runs?"):
        print("nothing was started.")
        return
    from flows.sweep import plan_sweep, sweep
    from tasks.pruning import raising_stops

    plan_sweep(file)  # what is wrong with it is said before Prefect starts
    with raising_stops():
        sweep(str(file))


@sweeps.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of a sweep.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write one row a run to a .csv file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Show a sweep: each setting's mean over seeds, its difference from the first setting, and every run."""
    from flows.sweep_listing import show_sweep, write_sweep
    from flows.terminal import print_listing

    if output:
        print(write_sweep(name, output))
    else:
        print_listing(show_sweep(name), as_json)


@sweeps.command("list")
def list_all(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """List all sweeps, newest first, with the states of their runs."""
    from flows.sweep_listing import list_sweeps
    from flows.terminal import print_listing

    print_listing(list_sweeps(), as_json)
