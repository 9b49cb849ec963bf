"""Results: comparisons of two models and the scores of a run, kept by the content that they were computed from.

A kept result needs no features, no torch and no arithmetic: `compare` and `rescore` of what did not change answer at
once. Results are not used without the embeddings that they came from: then pictures are checked and embedded again.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from naruto_core.artifacts import Layout, sha256_bytes, sha256_file, write_atomically
from naruto_core.domain import Finding, Score, Variant
from naruto_core.git_info import scoring_code_digest
from naruto_core.hub import locate
from naruto_core.recipe_sections import ScoringSection
from tasks.context import RunContext

if TYPE_CHECKING:
    from naruto_core.scoring.comparison import Comparison

_LIBRARIES = ("numpy", "scipy", "torchmetrics", "open-clip-torch", "timm", "transformers")
_WEIGHTS = ("*.safetensors", "*.json")
MOST = 500  # results; a comparison has about 8 KB
Key = list[Any]  # JSON values


def features_key(context: RunContext) -> Key:
    """Everything that the features of a run depend on: pictures, texts, networks.

    The id of a dataset version stands for its pictures and captions.
    """
    recipe, samples = context.recipe, context.store.samples(context.run.id)
    return [
        context.dataset.id,
        context.suite.fingerprint,
        sorted([sample.variant, sample.prompt, sample.seed, sample.sha256] for sample in samples),
        recipe.generation.resolution,
        recipe.instance_prompt,
        recipe.scoring.model_dump(mode="json"),
        [[name, *_files(name)] for name in _strings(recipe.scoring.model_dump(mode="json"))],
    ]


def read_result(layout: Layout, key: Key) -> Any | None:
    """The JSON value that was kept for `key` by the same code; None when there is none."""
    return ResultCache(layout.results).read(_with_code(key)) if layout.embeddings.exists() else None


def keep_result(layout: Layout, key: Key, result: Any) -> None:
    """Keep `result`, a JSON value without NaN and infinity, for `key`. Raises StorageFailed."""
    ResultCache(layout.results).write(_with_code(key), result)


def read_comparisons(layout: Layout, key: Key) -> "list[Comparison] | None":
    """The comparisons that were kept for `key`; None when there are none."""
    kept = read_result(layout, key)
    if kept is None:
        return None
    try:
        return _comparisons().validate_python(kept, strict=False)
    except ValidationError:
        return None


def keep_comparisons(layout: Layout, key: Key, comparisons: "Sequence[Comparison]") -> None:
    """Keep `comparisons` for `key`, unless JSON cannot hold them without loss. Raises StorageFailed."""
    text = _comparisons().dump_json(list(comparisons))
    if _comparisons().validate_json(text) == list(comparisons):
        keep_result(layout, key, json.loads(text))


def comparison_key(sides: Sequence[tuple[Key, Variant]], section: ScoringSection) -> Key:
    """The key of the comparison of two models: the features of either run with the variant, and the statistics."""
    return ["comparison", *([features, variant] for features, variant in sides), section.model_dump(mode="json")]


def recorded_scores_are_current(context: RunContext, key: Key) -> bool:
    """Whether the scores and findings in the database are those that were recorded for `key`."""
    kept = read_result(context.layout, key)
    return kept is not None and kept == _recorded(context)


def keep_recorded_scores(context: RunContext, key: Key) -> None:
    """Note that the scores and findings which are now in the database are those of `key`. Raises StorageFailed."""
    keep_result(context.layout, key, _recorded(context))


def _recorded(context: RunContext) -> str:
    scores: list[Score] = context.store.scores(context.run.id)
    findings: list[Finding] = context.store.findings(context.run.id)
    return sha256_bytes(repr((sorted(map(repr, scores)), sorted(map(repr, findings)))).encode())


@cache
def _comparisons():
    from pydantic import TypeAdapter

    from naruto_core.scoring.comparison import Comparison

    return TypeAdapter(list[Comparison])


def _with_code(key: Key) -> Key:
    return [*key, _code()]


@cache
def _code() -> Key:
    return [scoring_code_digest(), *(_version(name) for name in _LIBRARIES)]


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return ""


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _files(name: str) -> list[str]:
    """Digests of the files that `name` of a network means, where they are on this machine; others are pinned."""
    path = Path(locate(name, None)[0]) if name.startswith("package:") else Path(name.split(":", 1)[-1]).expanduser()
    if path.is_file():
        return [sha256_file(path)]
    found = sorted(file for pattern in _WEIGHTS for file in path.glob(pattern)) if path.is_dir() else []
    return [sha256_file(file) for file in found]


class ResultCache:
    """Results by content, one JSON file each below `folder`, named by a digest of what the result depends on.

    A cache only: a missing or damaged file means that the result is computed again. Of more than `most` files those
    that were used last are kept. Several processes may use it at once.
    """

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self._folder, self._most = folder, most

    def read(self, key: object) -> Any | None:
        """The result that was written for `key` (any JSON value); None when there is none, or a damaged one."""
        path = self._path(key)
        try:
            digest, _, text = path.read_text(encoding="utf-8").partition("\n")
            if digest != sha256_bytes(text.encode()):
                return None
            os.utime(path)  # used: removed later than others
        except (OSError, UnicodeDecodeError):
            return None
        return json.loads(text)

    def write(self, key: object, result: object) -> None:
        """Keep `result` (any JSON value without NaN and infinity) for `key`. Raises StorageFailed."""
        text = json.dumps(result, allow_nan=False)
        write_atomically(self._path(key), f"{sha256_bytes(text.encode())}\n{text}".encode())
        self._remove_oldest()

    def _path(self, key: object) -> Path:
        return self._folder / f"{sha256_bytes(json.dumps(key, sort_keys=True).encode())}.json"

    def _remove_oldest(self) -> None:
        files: list[tuple[int, Path]] = []
        for path in self._folder.glob("*.json"):
            with suppress(OSError):  # another process has just removed it
                files.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(files)[: -self._most]:
            path.unlink(missing_ok=True)
