"""Run a notebook from its first cell to its last, with the miniature and few steps; for `make notebook`.

`python tests/run_notebook.py NOTEBOOK` needs nbclient and ipykernel, which are in an environment of their own. Settings
are changed as papermill does: a cell is added behind the one with the tag "parameters". Exit 1 when a cell, or a shell
command in it, fails, or when what a user expects at the end is not there.
"""

import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

PROJECT = Path(__file__).resolve().parent.parent
CHANGES = {
    "dataset.source": "world:naruto?count=40&seed=5",
    "dataset.hold_out": 12,
    "training.max_train_steps": 8,
    "training.prior": "null",
    "training.validation": "null",
    "training.previews.preview_steps": 4,
    "training.previews.prompts": 1,
    "generation.prompts": 3,
    "generation.seeds": 1,
    "generation.num_inference_steps": 2,
}


def parameters(folder: Path) -> dict[str, str]:
    """The settings of the notebook for a run below `folder`."""
    return {
        "PROJECT": str(PROJECT),
        "NARUTO_HOME": str(folder / "home"),
        "DRIVE": str(folder / "a drive"),
        "RECIPE": "mini",
        "CHANGES": " ".join(f"--set {shlex.quote(f'{key}={value}')}" for key, value in CHANGES.items()),
    }


def with_parameters(notebook: nbformat.NotebookNode, values: dict[str, str]) -> None:
    """Add a cell with `values` behind the cell tagged "parameters", and one that fails when a shell command failed."""
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    position = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(position + 1, nbformat.v4.new_code_cell(source))
    for cell in notebook.cells:
        if cell.cell_type == "code" and "!" in cell.source:
            cell.source += "\nassert _exit_code == 0, _exit_code"


def main(path: Path) -> None:
    """Run the notebook twice, as after a disconnect: the second time from the copy on the "Drive" alone."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for home in ("home", "home of another session"):
            notebook = nbformat.read(path, as_version=4)
            nbformat.validate(notebook)
            with_parameters(notebook, parameters(folder) | {"NARUTO_HOME": str(folder / home)})
            NotebookClient(notebook, timeout=1800).execute()
            printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
            print(printed)
            assert list((folder / "a drive" / "loras").glob("*.safetensors")), "the notebook made no LoRA file"
        (run,) = (folder / "a drive" / "runs").iterdir()
        assert "copied" in printed
        print(f"{path}: both sessions ended with run {run.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
