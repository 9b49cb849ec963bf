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
from naruto_core.domain import Finding, Run, Score, Variant
from naruto_core.git_info import scoring_code_digest
from naruto_core.hub import locate
from naruto_core.store.run_queries import RunQueries

if TYPE_CHECKING:
    from naruto_core.scoring.comparison import Comparison

_LIBRARIES = ("numpy", "scipy", "torchmetrics", "open-clip-torch", "timm", "transformers")
_WEIGHTS = ("*.safetensors", "*.json")
MOST = 500  # results; a comparison has about 8 KB
Key = list[Any]  # JSON values


def features_key(records: RunQueries, run: Run) -> Key | None:
    """Everything that the features of a run depend on: pictures, texts, networks; None for a run without pictures.

    The id of a dataset version stands for its pictures and captions. Of the recipe, what was recorded counts: to read
    it as a Recipe takes longer than all the rest.
    """
    suite, samples = records.prompts(run.id), records.samples(run.id)
    if suite is None or not samples:
        return None
    recipe: dict[str, dict[str, Any]] = json.loads(records.recipe_json(run.id))
    scoring = recipe.get("scoring", {})
    return [
        run.dataset_id,
        suite.fingerprint,
        sorted([sample.variant, sample.prompt, sample.seed, sample.sha256] for sample in samples),
        recipe.get("generation", {}).get("resolution"),
        (recipe.get("imported") or recipe.get("training", {})).get("instance_prompt"),
        scoring,
        [[name, *_files(name)] for name in _strings(scoring)],
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


def comparison_key(sides: Sequence[tuple[Key | None, Variant]]) -> Key:
    """The key of the comparison of two models: the features of either run with the variant, and the statistics, which
    are part of a recipe's scoring section as its networks are."""
    return ["comparison", *([features, variant] for features, variant in sides)]


def recorded_scores_are_current(layout: Layout, records: RunQueries, run: Run, scores: Sequence[Score]) -> bool:
    """Whether `scores`, all of a run, and its findings are those that were recorded for what it depends on now."""
    features = features_key(records, run)
    kept = None if features is None else read_result(layout, _scores_key(run, features))
    return kept is not None and kept == _recorded(scores, records.findings(run.id))


def keep_recorded_scores(layout: Layout, records: RunQueries, run: Run, scores: Sequence[Score]) -> None:
    """Note that `scores`, all of a run, and its findings are those of what it depends on. Raises StorageFailed."""
    features = features_key(records, run)
    keep_result(layout, _scores_key(run, features), _recorded(scores, records.findings(run.id)))


def _scores_key(run: Run, features: Key | None) -> Key:
    return ["scores", run.id, features]


def _recorded(scores: Sequence[Score], findings: Sequence[Finding]) -> str:
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
