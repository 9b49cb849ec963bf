"""What `naruto plan` shows: the plan of a recipe, before anything is drawn; and the manual's page of all plans."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.listings import Listing, columns
from flows.profiles import choose_recipe, choose_suite, profile_names
from naruto_core.domain import format_duration
from naruto_core.planning.device_speeds import DEVICES, SECONDS_PER_OPERATION
from naruto_core.planning.plan import Plan, as_json, facts, fit_memory, plan_run, table
from naruto_core.planning.workload import whole_workload
from tasks.context import task_context
from tasks.plan import ASSUMED_PICTURES, drawn_pictures, plan_for_gpu, without_bf16

_PROJECT = Path(__file__).parent.parent
_INPUTS = (
    "flows/plan.py",
    "flows/recipes/*.yaml",
    "flows/prompts/*.yaml",
    "naruto_core/planning/*",
    "naruto_core/training/memory.py",
)
_ABOUT = f"""\
What `naruto plan --gpu t4` says of each recipe that is shipped, for an empty NARUTO_HOME; a set on the hub is taken
to have {ASSUMED_PICTURES:,} pictures, as the report's. Nothing here was measured with this program on a T4.

A time is the longer of two: the FLOPs, counted from the networks, over the rate of the last table; and the time in
which Python starts the operations, {SECONDS_PER_OPERATION * 1e6:.0f} us each. The download of the base model is not
in it. After a run, `naruto plan` on the same machine uses what the run's phases took.
"""


def plan_recipe(profile: str, dataset: str | None, overrides: Mapping[str, Any], gpu: str | None) -> Listing:
    """The plan of a recipe on this machine, or on a GPU of the table.

    Raises RecipeInvalid for a recipe that cannot be read, and DeviceUnfit for an unknown or too small GPU.
    """
    recipe = choose_recipe(profile, dataset, overrides)
    suite = choose_suite(recipe.generation)
    with task_context() as context:
        plan = plan_for_gpu(context, recipe, suite, gpu)
    return Listing(as_json(plan), "\n".join([columns(table(plan)), "", *facts(plan)]))


def plans_page(committed: str) -> str:
    """The manual's page with the plans of all recipes: `committed`, the page as it is, unless what it shows changed."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _INPUTS for path in _PROJECT.glob(pattern) if path.is_file()):
        digest.update(path.read_bytes())
    stamp = f"<!-- Plans of {digest.hexdigest()[:24]}; written by docs/reference.py: `make docs`. -->"
    if committed.startswith(stamp):
        return committed
    plans = {name: _on_every_gpu(name) for name in profile_names()}
    parts = [stamp, "\n# Plans\n", _ABOUT, *(_recipe(name, whole) for name, (whole, _) in plans.items())]
    first = [[name, *(_total(whole.get(gpu)) for gpu in DEVICES)] for name, (whole, _) in plans.items()]
    next_run = "next run of a sweep"
    second = [[f"{name}, {next_run}", *(_total(left.get(gpu)) for gpu in DEVICES)] for name, (_, left) in plans.items()]
    rows = [row for pair in zip(first, second, strict=True) for row in pair]
    parts += ["## Other GPUs\n", _markdown([["recipe", *(d.name for d in DEVICES.values())], *rows])]
    parts += [
        "\nThe next run of a sweep finds the base's pictures, the class pictures and the encoded pictures.\n",
        "## Rates\n",
        _markdown([["GPU", "peak TFLOP/s", "achieved", "from", "source"], *map(_device, DEVICES)]),
    ]
    return "\n".join(parts) + "\n"


def _on_every_gpu(name: str) -> tuple[dict[str, Plan], dict[str, Plan]]:
    """The plan of a recipe on each GPU that can do it, and that of the next run of a sweep; memory is the first's."""
    recipe = choose_recipe(name)
    is_bf16 = "bf16" in (recipe.training.mixed_precision, recipe.generation.mixed_precision)
    gpus = [gpu for gpu in DEVICES if not (gpu == "t4" and is_bf16)]
    recipe, held_out = without_bf16(recipe), recipe.dataset.hold_out
    memory = fit_memory(recipe, "cuda", DEVICES[gpus[0]].memory)
    pictures = drawn_pictures(recipe.dataset.source) or ASSUMED_PICTURES
    workload = whole_workload(recipe, choose_suite(recipe.generation), pictures - held_out, held_out)
    left = replace(workload, class_pictures=0, preview_base=0, encoded=0, base_samples=0)
    whole, again = (
        {gpu: plan_run(recipe, work, DEVICES[gpu], "cuda", memory) for gpu in gpus} for work in (workload, left)
    )
    return whole, again


def _recipe(name: str, plans: Mapping[str, Plan]) -> str:
    plan = next(iter(plans.values()))
    lines = [f"## {name}\n", f"On an {plan.device.name}:\n", _markdown(table(plan)), ""]
    return "\n".join([*lines, *(f"- {fact}" for fact in facts(plan)[1:]), ""])


def _total(plan: Plan | None) -> str:
    return format_duration(plan.seconds) if plan else "no bf16"


def _device(key: str) -> list[str]:
    device = DEVICES[key]
    return [device.name, f"{device.peak / 1e12:.0f}", f"{device.share:.0%}", device.basis, device.source]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others))
