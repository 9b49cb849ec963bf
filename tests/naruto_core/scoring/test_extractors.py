"""Extractors and scores against closed forms and other libraries."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from scipy import linalg
from timm.models import save_for_hf
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance

from naruto_core.artifacts import sha256_file
from naruto_core.errors import ModelUnusable, NarutoError
from naruto_core.scoring.feature_set import each_once
from naruto_core.scoring.features import embed_pictures, embed_texts, load_extractor
from naruto_core.scoring.hub_models import VqaModel
from naruto_core.scoring.sample_metrics import cosines
from naruto_core.scoring.set_metrics import frechet_measure, kid_measure
from naruto_core.scoring.torchmetrics_fid import fid
from naruto_core.sdxl import locate
from tests.hub_downloads import downloads
from tests.naruto_core.conftest import CPU, JUDGE
from tests.naruto_core.scoring.inception_file import write_random_inception
from tests.tiny_models import write_blip, write_clip, write_dinov2


def _textbook_fid(a: np.ndarray, b: np.ndarray) -> float:
    """Heusel et al. 2017 with scipy's matrix square root."""
    root = linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(shift @ shift + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * np.real(root)))


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 12), (40, 50, 96), (500, 30, 64)])
def test_both_forms_of_fid_equal_the_textbook(n: int, m: int, d: int):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0, 1, (n, d)), rng.normal(0.3, 1.4, (m, d))
    expected = _textbook_fid(a, b)
    assert frechet_measure(a, b)(each_once(len(a))) == pytest.approx(expected, rel=1e-6)
    assert fid(a, b) == pytest.approx(expected, rel=1e-6)


def test_fid_of_gaussians_with_known_moments_is_their_known_distance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (40_000, 4)), rng.normal(0.5, 2, (40_000, 4))
    # |0.5|^2 x 4 + 4 x (1 + 4 - 2 x 2) = 5
    assert fid(a, b) == pytest.approx(5.0, abs=0.1)


def test_fid_of_a_set_with_itself_is_zero():
    a = np.random.default_rng(1).normal(size=(50, 80))
    assert frechet_measure(a, a)(each_once(len(a))) == pytest.approx(0, abs=1e-6)


def test_too_few_or_broken_features_are_an_error_in_one_sentence():
    good = np.zeros((5, 3))
    with pytest.raises(NarutoError, match="holds 1 picture; this score needs at least 2"):
        fid(good[:1], good)
    broken = good.copy()
    broken[0, 0] = np.nan
    with pytest.raises(NarutoError, match="not numbers"):
        fid(good, broken)


def test_clip_scores_equal_open_clips_own():
    folder, _ = locate(JUDGE, None)
    model, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "navy", "white")]
    texts = ["a person with red hair", "a naruto anime character at night", "a pencil sketch"]
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack([prepare(p) for p in pictures]), normalize=True)
        captions = model.encode_text(tokenizer(texts), normalize=True)
    expected = (images * captions).sum(-1).numpy()

    judge = load_extractor(JUDGE, CPU)
    rows = np.concatenate(list(embed_pictures(judge, [lambda p=p: p for p in pictures], 2)))
    assert cosines(rows, embed_texts(judge, texts)) == pytest.approx(expected, abs=1e-5)


def test_an_extractor_that_does_not_exist_is_named():
    with pytest.raises(NarutoError, match="no-such-folder"):
        load_extractor("package:naruto_core.mini/no-such-folder", CPU)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("inception") / "inception.pth")


class Measured(torch.nn.Identity):
    """For torchmetrics: what it is given are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def test_inceptions_features_are_torchmetrics_own_and_so_are_fid_and_kid(inception_file: Path):
    rng = np.random.default_rng(0)
    drawn, real = (rng.integers(0, 256, (3, 40, 40, 3), dtype=np.uint8) for _ in range(2))
    path = str(inception_file)
    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
    theirs = [network(torch.from_numpy(pixels).permute(0, 3, 1, 2)) for pixels in (drawn, real)]
    # FID is the same in the span of the 6 rows, and its matrices are of 6 x 6 there instead of 2048 x 2048
    span, _ = torch.linalg.qr(torch.cat(theirs).double().T)
    distance = FrechetInceptionDistance(feature=Measured(6))
    kernel_distance = KernelInceptionDistance(feature=Measured(2048), subsets=1, subset_size=3)
    for features, is_real in zip(theirs, (False, True), strict=True):
        distance.update(features.double() @ span, real=is_real)
        kernel_distance.update(features, real=is_real)
    extractor = load_extractor(f"inception:{inception_file}", CPU)
    assert extractor.id == f"inception:{sha256_file(inception_file)[:16]}-torchmetrics"
    ours = [
        np.concatenate(list(embed_pictures(extractor, [lambda p=p: Image.fromarray(p) for p in pixels], 2)))
        for pixels in (drawn, real)
    ]
    assert ours[0].std() > 0.01  # these weights do say something
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other.numpy(), rel=1e-3, abs=1e-4)
    assert fid(*ours) == pytest.approx(float(distance.compute()), rel=1e-3)
    kid = kid_measure(*(rows.astype(np.float64) for rows in ours))(each_once(3))
    assert kid == pytest.approx(float(kernel_distance.compute()[0]), rel=1e-3, abs=1e-6)


def test_a_weights_file_that_would_run_code_is_not_loaded(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weights": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelUnusable, match="cannot load the extractor inception:"):
        _ = load_extractor(f"inception:{tmp_path / 'evil.pth'}", CPU).network
    assert not (tmp_path / "ran").exists()


def test_a_timm_folder_is_an_extractor_for_pictures_only(tmp_path: Path):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=32)
    save_for_hf(model, tmp_path, model_args={"img_size": 32}, safe_serialization=True)
    extractor = load_extractor(f"timm:{tmp_path}", CPU)
    rows = np.concatenate(list(embed_pictures(extractor, [lambda: Image.new("RGB", (40, 40), "red")], 1)))
    assert rows.shape == (1, model.num_features)
    with pytest.raises(ModelUnusable, match="has no text tower"):
        embed_texts(extractor, ["a person"])
    for unpinned in ("timm:vit_tiny", "timm:timm/vit_tiny", "timm:timm/vit_tiny@main"):
        with pytest.raises(ModelUnusable, match=r"timm's config\.json .* or a hub id with its commit"):
            load_extractor(unpinned, CPU)


def test_networks_are_downloaded_from_a_hub_at_their_pinned_commit(tmp_path: Path):
    further = {"facebook/dino": tmp_path / "dino", "me/pick": tmp_path / "pick", "me/blip": tmp_path / "blip"}
    for write, folder in zip((write_dinov2, write_clip, write_blip), further.values(), strict=True):
        write(folder)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=32)
    save_for_hf(model, tmp_path / "model", model_args={"img_size": 32}, safe_serialization=True)
    (tmp_path / "model" / "evil.py").write_text("raise SystemExit")
    commit = "0123456789abcdef0123456789abcdef01234567"
    digest = sha256_file(tmp_path / "model" / "model.safetensors")
    fetch = """
import sys, torch
from naruto_core.errors import NarutoError
from naruto_core.scoring.features import load_extractor
from naruto_core.scoring.hub_models import VqaModel
for line in sys.stdin:
    try:
        kind, _, name = line.strip().partition(":")
        cpu = torch.device("cpu")
        is_vqa = kind == "vqa"
        extractor = VqaModel(name, lambda: cpu).asking("red hair") if is_vqa else load_extractor(line.strip(), cpu)
        size = 28 if "dino" in name else 32
        print(extractor.id, extractor.network.embed(torch.zeros(1, 3, size, size)).shape[1], flush=True)
    except NarutoError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""
    pipe = subprocess.PIPE
    with downloads(tmp_path / "model", "me/tiny", commit, further) as (address, asked):
        # a process of its own: the hub's client reads its address when it is imported
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", fetch]
        with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdin
            assert process.stdout

            def load(name: str, kind: str = "timm") -> str:
                process.stdin.write(f"{kind}:{name}@{commit}\n")
                process.stdin.flush()
                return process.stdout.readline()

            others = [load("facebook/dino", "transformers"), load("me/pick", "transformers"), load("me/blip", "vqa")]
            done = load("me/tiny")
            (weights,) = (path for path in (tmp_path / "home").rglob("blobs/*") if path.name == digest)
            weights.write_bytes(weights.read_bytes()[:-1] + b"x")
            damaged = load("me/tiny")
            refused = load("me/tinny")
    assert done.split() == [load_extractor(f"timm:{tmp_path / 'model'}", CPU).id, str(model.num_features)]
    dino, pick, blip = (line.split() for line in others)
    assert dino == [load_extractor(f"transformers:{tmp_path / 'dino'}", CPU).id, "16"]
    assert pick == [load_extractor(f"transformers:{tmp_path / 'pick'}", CPU).id, "8"]
    assert blip == [VqaModel(str(tmp_path / "blip"), lambda: CPU).asking("red hair").id, "1"]
    assert damaged.startswith(f"RecordDamaged: the downloaded file model.safetensors is damaged: delete {weights}")
    assert not any("evil" in path and "resolve" in path for path in asked)
    assert refused.startswith("ModelUnusable: cannot load the extractor timm:me/tinny@")
