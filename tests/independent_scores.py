"""Every score of a run, computed again by code that shares nothing with `naruto_core.scoring`: numpy and scipy only.

    python -m tests.independent_scores NARUTO_HOME RUN

It reads samples and scores from the database, features from the embedding cache, and pictures from the dataset version.
"""

import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import linalg, spatial

from naruto_core.artifacts import Layout
from naruto_core.dataset.versions import read_pictures
from naruto_core.store.database import open_store

K, MOST = 5, 3000  # neighbours of precision and its like; pictures of a kind that are compared pair by pair
Array = Any


@dataclass(frozen=True)
class Recorded:
    """A run as it was recorded: extractors, drawn pictures by variant, and the parts of its dataset."""

    embeddings: Path
    recipe: dict[str, Any]
    suite: Any
    pictures: list[Any]
    samples: dict[str, list[tuple[str, str]]]  # (sha256, slug) by variant
    sets: str
    pairs: str

    def rows(self, extractor: str, contents: list[str]) -> Array:
        """Features (n, d) of `contents` in double precision."""
        with sqlite3.connect(f"file:{self.embeddings}?mode=ro", uri=True) as database:
            kept = dict(
                database.execute("SELECT content, features FROM embeddings WHERE extractor = ?", [extractor]).fetchall()
            )
        return np.array([np.frombuffer(kept[content], np.float16) for content in contents]).astype(float)

    def drawn(self, variant: str, extractor: str) -> Array:
        return self.rows(extractor, [sha256 for sha256, _ in self.samples[variant]])

    def real(self, part: str, extractor: str) -> Array:
        """Features of a part of the dataset, by content: "reference" was held out, "train" was trained on."""
        size = self.recipe["generation"]["resolution"]
        return self.rows(extractor, [f"{p.sha256}@{size}" for p in self.pictures if p.split == part])

    def texts(self, extractor: str, texts: list[str]) -> Array:
        return self.rows(extractor, [f"text:{hashlib.sha256(text.encode()).hexdigest()}" for text in texts])


def read_run(home: Path, run_id: str) -> Recorded:
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        run = store.run(run_id)
        recipe, suite = json.loads(store.recipe_json(run.id)), store.prompts(run.id)
        dataset, samples = store.find_dataset(run.dataset_id), store.samples(run.id)
        extractors = {score.metric: score.extractor for score in store.scores(run.id)}
    assert suite
    assert dataset
    slugs, by_variant = [prompt.slug for prompt in suite.prompts], dict[str, list[tuple[str, str]]]()
    for sample in sorted(samples, key=lambda s: (suite.seeds.index(s.seed), slugs.index(s.prompt))):
        by_variant.setdefault(str(sample.variant), []).append((sample.sha256, sample.prompt))
    pictures = sorted(read_pictures(Layout(home), dataset), key=lambda picture: picture.sha256)
    embeddings = Layout(home).embeddings
    return Recorded(embeddings, recipe, suite, pictures, by_variant, extractors["mmd"], extractors["clip"])


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def frechet(x: Array, y: Array) -> float:
    roots = np.sqrt(np.maximum(np.real(linalg.eigvals(np.cov(x.T) @ np.cov(y.T))), 0))
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T) + np.cov(y.T)) - 2 * roots.sum())


def mmd2(xx: Array, yy: Array, xy: Array) -> float:
    """The unbiased estimate, from the kernel's values within and across the sets."""
    n, m = len(xx), len(yy)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def polynomial(x: Array, y: Array) -> float:
    return mmd2(*((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))))


def gaussian(x: Array, y: Array, width2: float) -> float:
    return mmd2(
        *(np.exp(-spatial.distance.cdist(a, b, "sqeuclidean") / (2 * width2)) for a, b in ((x, x), (y, y), (x, y)))
    )


def overlap(x: Array, y: Array) -> dict[str, float]:
    """Precision, recall, density and coverage (Naeem et al. 2020) of equally many drawn and reference pictures."""
    across = spatial.distance.cdist(x, y)
    of_x, of_y = (np.sort(spatial.distance.cdist(a, a))[:, K] for a in (x, y))
    return {
        "precision": float((across <= of_y[None, :]).any(1).mean()),
        "recall": float((across <= of_x[:, None]).any(0).mean()),
        "density": float((across <= of_y[None, :]).sum(1).mean() / K),
        "coverage": float((across <= of_y[None, :]).any(0).mean()),
    }


def vendi(x: Array) -> float:
    values = linalg.eigvalsh(unit(x) @ unit(x).T / len(x))
    values = values[values > 1e-12]
    return float(np.exp(-np.sum(values * np.log(values))))


def set_scores(x: Array, reference: Array, n: int) -> dict[str, float]:
    x, near = x[:n], reference[:MOST]
    distances = spatial.distance.pdist(unit(near), "sqeuclidean")
    values = {
        "fd": frechet(x, reference),
        "kd": polynomial(x, near),
        "mmd": 1000 * gaussian(unit(x), unit(near), float(np.median(distances)) / 2),
        "vendi": vendi(x),
    }
    return values | (overlap(x, reference[:n]) if n >= 8 else {})


def recompute(home: Path, run_id: str) -> Iterator[tuple[str, str, float]]:
    """(metric, variant, value) of every metric that this file knows; "fd" and "kd" without the extractor's name."""
    run = read_run(home, run_id)
    part, rest = ("reference", "train") if run.recipe["scoring"]["reference"] == "held-out" else ("train", "reference")
    reference, perfect, training = (run.real(name, run.sets) for name in (part, rest, "train"))
    prompts = {prompt.slug: prompt for prompt in run.suite.prompts}
    n = min(len(next(iter(run.samples.values()))), len(reference), len(perfect), MOST)
    centre = unit(reference).sum(0)
    for variant in [*run.samples, "real"]:
        is_real = variant == "real"
        pictures = perfect if is_real else run.drawn(variant, run.sets)
        pairs = run.real(rest, run.pairs) if is_real else run.drawn(variant, run.pairs)
        for metric, value in set_scores(pictures, reference, n).items():
            yield metric, variant, value
        yield "cmmd", variant, 1000 * gaussian(unit(pairs[:n]), unit(run.real(part, run.pairs)[:MOST]), 100.0)
        yield "style", variant, float((unit(pictures) @ centre).mean() / np.linalg.norm(centre))
        near = run.real("reference", run.sets)[:MOST] if is_real else pictures
        yield "copying", variant, float((unit(near) @ unit(training).T).max(1).mean())
        phrase = (run.recipe.get("training") or {}).get("instance_prompt", "")
        captions = [
            p.caption if p.caption.lower().startswith(phrase.lower()) else ", ".join(filter(None, [phrase, p.caption]))
            for p in run.pictures
            if p.split == rest
        ]
        asked = captions if is_real else [prompts[slug].text for _, slug in run.samples[variant]]
        yield "clip", variant, float((unit(pairs) * unit(run.texts(run.pairs, asked))).sum(1).mean())
        if not is_real:
            contents = run.texts(run.pairs, [prompts[slug].content for _, slug in run.samples[variant]])
            yield "clip-content", variant, float((unit(pairs) * unit(contents)).sum(1).mean())


def differences(home: Path, run_id: str) -> dict[tuple[str, str], tuple[float, float]]:
    """The recorded and the recomputed value of every recorded score that this file knows."""
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        scores = [score for score in store.scores(store.run(run_id).id) if score.sample_id is None]
    families = {"fd": "fd", "fid": "fd", "kd": "kd", "kid": "kd"}
    recorded = {
        (families.get(s.metric.split("-")[0], s.metric), str(s.variant)): s.value
        for s in scores
        if not s.metric.endswith("on base styles")  # of a part of the prompts
    }
    again = {(metric, variant): value for metric, variant, value in recompute(home, run_id)}
    return {key: (recorded[key], value) for key, value in again.items() if key in recorded}


if __name__ == "__main__":
    for (metric, variant), (before, after) in differences(Path(sys.argv[1]), sys.argv[2]).items():
        off = abs(after - before) / max(1e-12, abs(before))
        print(f"{metric:<14} {variant:<8} {before:>14.6f} {after:>14.6f} {off:.1e}")
