"""The pretraining of the miniature: its corpora, its VAE's latents, its stages; all with plans of a few steps."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from naruto_core.checkpoint import read_checkpoint
from naruto_core.mini.pretraining.architecture import create_vae
from naruto_core.mini.pretraining.attribute_classifier import ATTRIBUTES, attribute_labels
from naruto_core.mini.pretraining.composition import random_composition
from naruto_core.mini.pretraining.corpus import corpus, draw_base_picture, draw_mixed_picture
from naruto_core.mini.pretraining.evaluation import compare_with_bars, face_similarity
from naruto_core.mini.pretraining.trainer import FitConfig, fit, orthogonalise
from naruto_core.mini.pretraining.vae import encode_all, round_trip, standardise, to_unit_range
from naruto_core.mini.pretraining.world import BASE_STYLES, HELD_OUT_STYLE, INKED_STYLE, sample_scene


def _ignore(_: object) -> None:
    """A progress callback."""


def test_a_corpus_is_the_same_for_any_number_of_workers_and_after_an_interruption(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("naruto_core.mini.pretraining.corpus._CHUNK", 8)
    whole, annotations = corpus(tmp_path / "a", draw_base_picture, 18, 1, 1, _ignore)
    assert whole.shape == (18, 128, 128, 3)
    assert len(annotations) == 18
    assert all(annotation.scene and annotation.scene.style in BASE_STYLES for annotation in annotations)

    class Interrupted(Exception):
        pass

    def interrupt(done: int) -> None:
        if done:
            raise Interrupted

    with pytest.raises(Interrupted):
        corpus(tmp_path / "b", draw_base_picture, 18, 1, 1, interrupt)
    (tmp_path / "b" / "annotations-0001.json").unlink()
    progress: list[int] = []
    again, read = corpus(tmp_path / "b", draw_base_picture, 18, 1, 2, progress.append)
    assert (again == whole).all()
    assert read == annotations
    assert progress[-1] == 18
    assert progress[0] == 10, "what was there before is no work of this process"


def test_the_vae_sees_compositions_and_inked_pictures_but_never_the_held_out_style():
    annotations = [draw_mixed_picture(Random(f"mixed/{number}"))[1] for number in range(30)]
    styles = [annotation.scene.style if annotation.scene else None for annotation in annotations]
    assert 0.4 < styles.count(None) / len(styles) < 0.8
    assert INKED_STYLE in styles
    assert HELD_OUT_STYLE not in styles


def test_random_compositions_are_reproducible_and_differ():
    pictures = [np.asarray(random_composition(Random(f"c/{n}"), 128)) for n in range(20)]
    assert (np.asarray(random_composition(Random("c/7"), 128)) == pictures[7]).all()
    assert all(picture.shape == (128, 128, 3) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 20
    assert sum(picture.std() > 10 for picture in pictures) > 15


def test_standardised_latents_have_unit_channels_and_the_round_trip_stays():
    torch.manual_seed(0)
    vae = create_vae().eval()
    with torch.no_grad():  # channels that differ wildly, as after a training with a small KL weight
        vae.quant_conv.weight[:16] *= torch.logspace(-0.5, 0.5, 16)[:, None, None, None]
        vae.quant_conv.bias[:16] += torch.linspace(-1, 1, 16)
    pixels = np.stack([np.asarray(random_composition(Random(f"s/{n}"), 128)) for n in range(6)])[:, :48, :48]
    before = round_trip(vae, pixels)
    standardise(vae, pixels)
    means, deviations = (torch.from_numpy(part.astype(np.float32)) for part in encode_all(vae, pixels))
    assert means.mean((0, 2, 3)).abs().max() < 0.02
    second_moment = means.var((0, 2, 3)) + deviations.square().mean((0, 2, 3))
    assert second_moment.sqrt() == pytest.approx(torch.ones(16), abs=0.03)
    assert torch.allclose(round_trip(vae, pixels), before, atol=2e-2)
    assert vae.config.scaling_factor == 1.0


def test_labels_have_every_attribute_of_the_left_character():
    rng = Random(5)
    scenes = [sample_scene(rng, "flat") for _ in range(20)]
    labels = attribute_labels(scenes)
    assert set(labels) == {"hair", "garment", "place", "style", "eyes", "view", "expression"}
    for row, scene in enumerate(scenes):
        character = scene.characters[0]
        assert ATTRIBUTES["eyes"][labels["eyes"][row]] == character.eyes
        assert ATTRIBUTES["view"][labels["view"][row]] == character.view
        assert ATTRIBUTES["expression"][labels["expression"][row]] == character.expression


def test_a_face_is_compared_where_it_is():
    truth = to_unit_range(np.stack([np.asarray(random_composition(Random("f"), 128))]))
    corner, middle = truth.clone(), truth.clone()
    corner[:, :, :28, :28] *= -1
    middle[:, :, 50:78, 50:78] *= -1
    assert face_similarity(corner, truth) > 0.9999
    assert face_similarity(middle, truth) < 0.95


def test_a_bar_is_met_missed_or_not_measured():
    figures = {"vae_psnr_db": {HELD_OUT_STYLE: 31.0}, "vae_face_ssim": 0.9, "vae_real_psnr_db": None, "megabytes": 31.0}
    lines = {line.split()[0]: line for line in compare_with_bars(figures)}
    assert lines["vae_psnr_db.naruto"].endswith(" met")
    assert lines["vae_face_ssim"].endswith("NOT MET")
    assert lines["megabytes"].endswith("NOT MET")
    assert lines["vae_real_psnr_db"].endswith("not measured")
    assert lines["base_accuracy.eyes"].endswith("not measured")


def test_an_update_of_muon_has_singular_values_near_one_in_the_directions_of_the_gradient():
    matrices = torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(1))
    for wide in (matrices, matrices.mT):
        left, _, right = torch.linalg.svd(wide, full_matrices=False)
        inside = left.mT @ orthogonalise(wide) @ right.mT
        assert ((inside.diagonal(dim1=1, dim2=2) > 0.6) & (inside.diagonal(dim1=1, dim2=2) < 1.3)).all()
        assert (inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4


@pytest.mark.parametrize("matrix_rate", [None, 0.05], ids=["AdamW", "Muon"])
def test_a_killed_pretraining_stage_goes_on_to_the_same_weights(tmp_path: Path, matrix_rate: float | None):
    config = FitConfig("toy", 30, 0.05, matrix_rate, warmup_steps=3, checkpoint_seconds=0.0)

    def run(checkpoint: Path, die_at: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 2)

        def loss(step: int) -> torch.Tensor:
            if step == die_at:
                raise KeyboardInterrupt
            data = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            return (layer(data) - 1).square().mean()

        fit(config, {"layer": layer}, loss, checkpoint, _ignore)
        return layer.weight.detach().clone()

    expected = run(tmp_path / "a.safetensors", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b.safetensors", 17)
    assert read_checkpoint(tmp_path / "b.safetensors")[1]["step"] == 17
    assert torch.equal(run(tmp_path / "b.safetensors", None), expected)
