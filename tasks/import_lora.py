"""Import a LoRA: find and check the file of another trainer, and record it as the adapter of a run."""

import re
from dataclasses import dataclass
from pathlib import Path

from naruto_core.artifacts import sha256_file
from naruto_core.domain import Adapter
from naruto_core.errors import ModelUnusable
from naruto_core.hub import download_file
from naruto_core.lora_import import ForeignLora, read_lora
from naruto_core.recipe_sections import ModelSection
from naruto_core.store.verification import adapter_fault
from tasks.context import OpenRun, run_context
from tasks.progress import say
from tasks.pruning import run_task
from tasks.truncation import find_truncated_text, limit_of

_HUB_FILE = re.compile(r"(?P<name>[\w.-]+/[\w.-]+(/[\w./-]+\.safetensors)?)@(?P<revision>\w+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA file on this machine, and its name for people: of a file its last part, of the hub the whole address."""

    path: Path
    name: str


def find_lora(name: str) -> LoraFile:
    """The file called `name`: a path, or a file of the hub at a commit (OWNER/NAME@COMMIT), which is downloaded.

    Raises ModelUnusable when there is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return LoraFile(path, path.name)
    if match := _HUB_FILE.fullmatch(name):
        return LoraFile(download_file(match["name"], match["revision"], ".safetensors"), name)
    raise ModelUnusable(f"there is no LoRA file {name}; one of the hub is OWNER/NAME@COMMIT or OWNER/NAME/FILE@COMMIT.")


def examine_lora(file: LoraFile, model: ModelSection) -> ForeignLora:
    """The file, read and found to fit the base `model`; says what it is. Raises ModelUnusable."""
    lora = read_lora(file.path, model)
    low, high = lora.ranks
    ranks = f"rank {low}" if low == high else f"ranks {low} to {high}"
    say(f"{file.name}: {lora.format} form, {ranks}, {lora.modules} modules, all in {model.base}")
    for key, value in lora.facts.items():
        say(f"  the file says {key}: {value}")
    return lora


@run_task()
def record_lora(opened: OpenRun, file: LoraFile) -> list[Adapter]:
    """Write the LoRA as the run's adapter, unless that was done; the steps of its training are unknown (0)."""
    with run_context(opened, "import", needs_device=False) as context:
        recorded = context.store.adapters(opened.id)
        if recorded and not any(adapter_fault(context.layout, adapter) for adapter in recorded):
            return recorded
        recipe, imported = context.recipe, context.recipe.imported
        lora = read_lora(file.path, recipe.model)
        if imported is None or lora.sha256 != imported.sha256:
            raise ModelUnusable(f"{file.name} was changed while it was imported: run the same command again.")
        path = context.layout.adapter(opened.id)
        lora.write(path, recipe.model)
        adapter = Adapter(opened.id, context.layout.relative(path), sha256_file(path), lora.ranks[1], 0)
        context.store.add_adapters([adapter])
        finding = find_truncated_text(opened.id, recipe, (), context.suite, limit_of(recipe))
        context.store.add_findings(opened.id, [finding])
        return context.store.adapters(opened.id)
