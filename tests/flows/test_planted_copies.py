"""What is planted among a run's samples is named by the whole flow, from picture files to the finding.

The samples are drawings of what the prompts ask for: 44 of a base and 44 of an adapted model, without a fault.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from flows.import_pictures import import_pictures
from flows.profiles import choose_recipe, choose_suite
from naruto_core.artifacts import Layout, sha256_file
from naruto_core.dataset.preprocessing import prepare
from naruto_core.dataset.versions import read_picture, read_pictures
from naruto_core.domain import Finding, Picture, Prompt, PromptSuite, Split, Variant
from naruto_core.hub import locate
from naruto_core.mini.attribute_reader import asked_classes, read_config
from naruto_core.mini.pretraining.drawing import draw
from naruto_core.mini.pretraining.world import BASE_STYLES, HELD_OUT_STYLE, Scene, sample_character, sample_scene
from naruto_core.store.database import open_store
from tests.flows.conftest import Naruto
from tests.naruto_core.scoring.planted import CHANGES

OVERRIDES: dict[str, object] = {
    "generation.suite": "konoha-v1",
    "generation.seeds": 1,
    "dataset.source": "world:naruto?count=100&seed=5",
    "dataset.hold_out": 40,  # so many are needed for a margin that crops are beyond; JPEG copies need more
    "scoring.resamples": 100,
}
KINDS = ("exact", "mirrored", "crop", "resized")
Pictures = Mapping[str, Image.Image]  # by prompt


@dataclass(frozen=True)
class DrawnRun:
    """A finished run of drawings: its home and id, the adapted pictures, and the pictures that were trained on."""

    home: Path
    run_id: str
    suite: PromptSuite
    adapted: Pictures
    training: list[tuple[Picture, Image.Image]]

    def with_adapted(self, naruto: Naruto, changed: Pictures) -> dict[str, Finding]:
        """The findings of `naruto rescore` by name, where the adapted model drew `changed` instead."""
        layout = Layout(self.home)
        with open_store(f"sqlite:///{self.home / 'naruto.db'}") as store:
            for sample in store.samples(self.run_id, Variant.ADAPTED):
                path = layout.absolute(sample.path)
                changed.get(sample.prompt, self.adapted[sample.prompt]).save(path)
                store.add_samples([replace(sample, sha256=sha256_file(path))])
        assert naruto(self.home, "rescore", self.run_id).returncode == 0
        with open_store(f"sqlite:///{self.home / 'naruto.db'}") as store:
            return {finding.name: finding for finding in store.findings(self.run_id)}


def asked_scene(prompt: Prompt, style: str, rng: Random) -> Scene:
    """A scene that shows what the prompt asks for; all else is random."""
    asked = asked_classes(prompt.content, read_config(Path(locate("package:naruto_core.mini/weights/reader", None)[0])))
    person = sample_character(rng)
    person = replace(
        person, hair=asked.get("hair", person.hair), garment_colour=asked.get("garment", person.garment_colour)
    )
    scene = sample_scene(rng, asked.get("style", style))
    return replace(scene, characters=(person,), place=asked.get("place", scene.place), framing="portrait")


@pytest.fixture(scope="module")
def drawn(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> DrawnRun:
    home, folder = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("pictures")
    suite = choose_suite(choose_recipe("mini", None, OVERRIDES).generation)
    of_base, of_adapted = (
        {
            prompt.slug: draw(asked_scene(prompt, styles[i % len(styles)], Random(f"{seed}/{i}")), Random(i))
            for i, prompt in enumerate(suite.prompts)
        }
        for seed, styles in enumerate((BASE_STYLES, (HELD_OUT_STYLE,)))
    )
    for slug, picture in of_adapted.items():
        picture.save(folder / f"{slug}_{suite.seeds[0]}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(home))
        run_id = import_pictures(str(folder), "drawings", "mini", overrides=OVERRIDES)
    layout = Layout(home)
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        for sample in store.samples(run_id, Variant.ADAPTED):
            base = replace(sample, id=f"{sample.id}-base", variant=Variant.BASE)
            path = layout.sample(run_id, base.id)
            of_base[sample.prompt].save(path)
            store.add_samples([replace(base, path=layout.relative(path), sha256=sha256_file(path))])
        dataset = store.find_dataset(store.run(run_id).dataset_id)
        assert dataset is not None
        trained_on = [p for p in read_pictures(layout, dataset) if p.split is Split.TRAIN]
    pixels = [Image.fromarray(prepare(read_picture(layout, p), (64, 64)).pixels) for p in trained_on]
    return DrawnRun(home, run_id, suite, of_adapted, list(zip(trained_on, pixels, strict=True)))


def test_one_and_16_planted_copies_and_a_planted_drop_of_a_tag_are_named(drawn: DrawnRun, naruto: Naruto) -> None:
    rng = np.random.default_rng(0)
    of_tag = {prompt.slug for prompt in drawn.suite.prompts if "attribute" in prompt.tags}
    others = [slug for slug in drawn.adapted if slug not in of_tag]
    exchanged = {slug: drawn.adapted[other] for slug, other in zip(sorted(of_tag), reversed(others), strict=False)}
    for copies, dropped in ((1, False), (16, True)):
        copied = {
            slug: CHANGES[KINDS[i % len(KINDS)]](drawn.training[i][1], rng) for i, slug in enumerate(others[:copies])
        }
        findings = drawn.with_adapted(naruto, copied | (exchanged if dropped else {}))
        memorized, worse = findings["memorization"], findings["generalisation"]
        assert memorized.figures["copies"] == copies, memorized.sentence
        for slug, (picture, _) in zip(copied, drawn.training, strict=False):
            assert f"({slug}, seed 11) is {picture.sha256[:12]}" in memorized.sentence
        assert worse.warning == dropped, worse.sentence
        assert ("than the base does: attribute (-" in worse.sentence) == dropped
