"""`naruto import ...`: a LoRA or pictures of another program become a run, measured and judged like our own."""

from pathlib import Path
from typing import Annotated

import typer

imports = typer.Typer(
    no_args_is_help=True, help="Make a run of a LoRA or of pictures from another program: scored, compared, rated."
)

Profile = Annotated[
    str, typer.Option("--recipe", "-r", help="The recipe that says how to draw and score, and on which dataset.")
]
Dataset = Annotated[
    str | None, typer.Option(help="Pictures that the scores compare with, instead of the recipe's: path, hub id.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe, e.g. generation.seeds=2."),
]


@imports.command("lora")
def import_lora(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A .safetensors file (kohya, diffusers, PEFT), or OWNER/NAME@COMMIT.")
    ],
    base: Annotated[
        str | None, typer.Option(help="The base model it was trained on, instead of the recipe's: folder, ID@COMMIT.")
    ] = None,
    recipe: Profile = "mini",
    name: Annotated[str | None, typer.Option(help="Name in run ids; default: the file's name.")] = None,
    dataset: Dataset = None,
    trigger: Annotated[
        str | None, typer.Option(help="Trigger word; it replaces the recipe's instance prompt in the prompts.")
    ] = None,
    scale: Annotated[float, typer.Option(min=-4, max=4, help="Scale of the LoRA.")] = 1.0,
    settings: Changes = None,
) -> None:
    """Draw with a LoRA of another trainer, score it, and record it as a run, beside our own."""
    from flows.import_lora import import_lora as flow
    from naruto_core.recipe import overrides_from_text
    from tasks.pruning import raising_stops

    overrides = {"fusion.lora_scale": scale} | overrides_from_text(settings or [])
    with raising_stops():
        flow(file, recipe, base, dataset, name, trigger, overrides)


@imports.command("pictures")
def import_pictures(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures called <slug>_<seed>.png.")],
    model: Annotated[str, typer.Option(help="Name of the model that drew them, for people.")],
    recipe: Profile = "mini",
    suite: Annotated[str | None, typer.Option(help="The prompt suite that was drawn; default: the recipe's.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="A CSV file with the columns file, seed, and slug or prompt, for other names.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Draw the prompts with this base model too, to compare with: folder, ID@COMMIT.")
    ] = None,
    dataset: Dataset = None,
    settings: Changes = None,
) -> None:
    """Score pictures that another program drew for the prompts of a suite, and record them as a run."""
    from flows.import_pictures import import_pictures as flow
    from naruto_core.recipe import overrides_from_text
    from tasks.pruning import raising_stops

    overrides = {"generation.suite": suite} if suite else {}
    overrides |= overrides_from_text(settings or [])
    with raising_stops():
        flow(str(folder), model, recipe, base, dataset, str(csv) if csv else None, overrides)
