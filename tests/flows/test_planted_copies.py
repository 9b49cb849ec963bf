"""Copies among a run's samples are named by the whole flow, from picture files to the finding."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from naruto_core.artifacts import Layout, sha256_file
from naruto_core.dataset.preprocessing import prepare
from naruto_core.dataset.versions import read_picture, read_pictures
from naruto_core.domain import Split, Variant
from naruto_core.store.database import open_store
from tests.flows.conftest import Naruto
from tests.naruto_core.scoring.planted import CHANGES


def test_planted_copies_are_named_with_their_training_pictures(
    small_run: tuple[Path, str], tmp_path: Path, naruto: Naruto
) -> None:
    home, run_id = tmp_path / "home", small_run[1]
    shutil.copytree(small_run[0], home)
    layout, rng = Layout(home), np.random.default_rng(0)
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        dataset = store.find_dataset(store.run(run_id).dataset_id)
        assert dataset is not None
        training = [p for p in read_pictures(layout, dataset) if p.split is Split.TRAIN]
        samples = store.samples(run_id, Variant.ADAPTED)
        kinds = ("exact", "mirrored", "crop", "JPEG")
        for sample, picture, kind in zip(samples, training, kinds, strict=False):
            path = layout.absolute(sample.path)
            drawing = Image.fromarray(prepare(read_picture(layout, picture), (64, 64)).pixels)
            CHANGES[kind](drawing, rng).save(path)
            store.add_samples([replace(sample, sha256=sha256_file(path))])
    naruto(home, "rescore", run_id)  # exit status 1: six pictures are too few for some metrics
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        finding = next(f for f in store.findings(run_id) if f.name == "memorization")
    assert finding.warning
    assert finding.figures["copies"] == len(kinds), finding.sentence
    for sample, picture in zip(samples[: len(kinds)], training, strict=False):
        assert f"{sample.id} ({sample.prompt}, seed {sample.seed}) is {picture.sha256[:12]}" in finding.sentence
