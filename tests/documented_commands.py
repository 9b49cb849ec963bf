"""The command blocks of README and docs: where they stand, what they say, and why a block is not run.

A block is a fence with the language bash. Before it a comment may stand, which readers do not see:

    <!-- not run: REASON -->            no line of the block is run by a test
    <!-- not run: REASON (COMMAND) -->  lines that begin with COMMAND are not run

Lines that are not run are still parsed by the program's own parser, as far as there is one (`parse`).
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "tests/benchmarks/README.md")),
    *sorted((PROJECT / "docs").rglob("*.md")),
]
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^(\n]+?)(?: \((?P<command>[^)]+)\))? -->\n)?"
    r"^```(?P<language>\S*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
REASONS = {
    "takes minutes", "takes hours", "starts a server", "needs a running service", "needs root and half an hour",
    "needs a GPU", "needs several GPUs", "needs a GPU and a model hub", "needs a BLIP model", "needs Docker",
    "needs a cluster", "needs a campaign", "needs a registered person", "deletes a run",
}  # fmt: skip
# Programs of which nothing is checked but that a reason says why they are not run.
NOT_PARSED = {"curl", "dask", "export", "nvidia-smi", "openssl", "printf", "tensorboard", "uvx"}


@dataclass(frozen=True)
class Block:
    """One command block of a page."""

    page: str
    text: str
    reason: str
    command: str

    @property
    def lines(self) -> list[list[str]]:
        """Each command as words, without comments and assignments before it; of a pipe the first command."""
        joined = self.text.replace("\\\n", " ").splitlines()
        commands = [shlex.split(line.split(" | ")[0], comments=True) for line in joined]
        return [_without_assignments(words) for words in commands if words]

    def is_run(self, words: Sequence[str]) -> bool:
        """Whether a test runs this line of the block."""
        return not self.reason or bool(self.command and not " ".join(words).startswith(self.command))


def _without_assignments(words: list[str]) -> list[str]:
    first = next(index for index, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=.*", word))
    return words[first:]


def fences() -> Iterator[tuple[str, re.Match[str]]]:
    """(page, match) of every fence, whatever its language."""
    for path in PAGES:
        page = path.relative_to(PROJECT).as_posix()
        yield from ((page, found) for found in FENCE.finditer(path.read_text(encoding="utf-8")))


def blocks() -> list[Block]:
    """Every command block, in the order of the pages."""
    return [
        Block(page, found["text"], found["reason"] or "", found["command"] or "")
        for page, found in fences()
        if found["language"] == "bash"
    ]


def parse(words: Sequence[str]) -> None:
    """Hold one command against its program's parser, or the files that it names; AssertionError if it differs."""
    program, rest = Path(words[0]).name, list(words[1:])
    match program:
        case "naruto" | "naruto-service":
            _parse_typer(program, rest)
        case "accelerate":
            assert rest[0] == "launch"
            _parse_typer("naruto", rest[rest.index("flows") + 1 :])
        case "make":
            targets = [word for word in rest if not re.fullmatch(r"[A-Z_]+=.*", word)]
            assert set(targets) <= make_targets(), words
        case "prefect":
            _check_prefect(rest)
        case "python" if rest[0] == "-m":
            assert find_spec(rest[1]), words
        case "python":
            compile(rest[rest.index("-c") + 1], "docs", "exec")
        case "docker" | "kubectl":
            _check_files(rest, "-f", "-k")
        case "pre-commit":
            assert rest == ["install"]
        case _:
            assert program in NOT_PARSED, f"{program}: say in tests/documented_commands.py how it is checked"


def make_targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _parse_typer(program: str, words: list[str]) -> None:
    from typer.main import get_command

    from deployments.service.__main__ import app as service
    from flows.cli import app as naruto

    command: Any = get_command(naruto if program == "naruto" else service)
    while hasattr(command, "commands"):
        words = command.with_command(words) if hasattr(command, "with_command") else words
        assert words[:1], f"{program} needs a command"
        assert words[0] in command.commands, f"{program} has no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context(program, words).close()  # parses options and arguments, and calls nothing


def _check_prefect(words: list[str]) -> None:
    if words[:2] == ["deployment", "run"]:
        file = yaml.safe_load((PROJECT / "deployments" / "prefect" / "prefect.yaml").read_text(encoding="utf-8"))
        known = {entry["name"] for entry in file["deployments"]}
        assert words[2].split("/")[-1] in known, words
    else:
        _check_files(words, "--base-job-template")


def _check_files(words: list[str], *options: str) -> None:
    named = [words[index + 1] for index, word in enumerate(words) if word in options]
    assert [name for name in named if "/" in name and not (PROJECT / name).exists()] == []
