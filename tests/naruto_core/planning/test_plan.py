"""Plans: seconds by table or by what was measured, and what exists already is not planned."""

from dataclasses import replace
from typing import Any

import open_clip
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flows.profiles import choose_recipe, choose_suite
from naruto_core.domain import PhaseSpeed, PlannedPhase
from naruto_core.mini.attribute_reader import load_reader, read_config
from naruto_core.mini.pretraining.package import WEIGHTS
from naruto_core.planning.device_speeds import DEVICES, SECONDS_PER_OPERATION, known_speed
from naruto_core.planning.flops import Work
from naruto_core.planning.metric_networks import metric_networks
from naruto_core.planning.plan import Plan, configured, plan_run, table
from naruto_core.planning.workload import scoring_work, whole_workload
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import ModelSection
from naruto_core.training.memory import GIB, MemoryPlan

T4 = DEVICES["t4"]


def _plan(recipe: Recipe, measured: list[PhaseSpeed], **changes: int) -> Plan:
    workload = replace(whole_workload(recipe, choose_suite(recipe.generation), 1221, 0), **changes)
    memory = MemoryPlan(recipe.training, {"train": 7 * GIB, "sample": 13 * GIB}, T4.memory, 1000)
    return plan_run(recipe, workload, T4, "cuda", memory, measured)


def _phase(plan: Plan, name: str) -> PlannedPhase:
    return next(phase for phase in plan.phases if phase.phase == name)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return choose_recipe("t4", overrides={"training.prior.resolution": 256, "generation.seeds": 2})


def test_the_t4_plan_draws_longer_than_it_trains_and_names_where_its_figures_come_from(recipe: Recipe):
    plan = _plan(recipe, [])
    samples, train = _phase(plan, "samples"), _phase(plan, "train")
    assert samples.units == 44 * 2 * len(recipe.generation.variants)
    assert 30 < samples.seconds / samples.units < 40  # 416 TFLOP at 11.7 TFLOP/s
    assert train.units == 500
    assert 500 * 4 * 13_000 * SECONDS_PER_OPERATION < train.seconds < samples.seconds  # Python's calls decide
    assert {phase.basis for phase in plan.phases} == {"published", "estimated"}
    assert plan.seconds == pytest.approx(sum(phase.seconds for phase in plan.phases))
    assert "SDXL base 1.0" in plan.notes[0]
    assert table(plan)[-1][-1] == "13.0 GiB"


def test_what_was_measured_here_replaces_the_table_and_is_scaled_by_little_more_work(recipe: Recipe):
    train = _phase(_plan(recipe, []), "train")
    measured = PhaseSpeed("train", T4.name, "fp16", train.flops * 1.01, 250, 500.0)
    exact = _phase(_plan(recipe, [measured]), "train")
    assert exact.basis == "measured here"
    assert exact.seconds == pytest.approx(500 * 2.0 / 1.01)
    for other in ({"device": "NVIDIA L4"}, {"precision": "bf16"}, {"flops": train.flops * 2}):
        assert _phase(_plan(recipe, [replace(measured, **other)]), "train") == train


def test_the_networks_that_measure_are_counted_on_the_disk_and_their_download_is_a_note(recipe: Recipe):
    plan = _plan(recipe, [])
    assert plan.disk_bytes["metric networks"] == pytest.approx(10.2e9, rel=0.01)
    assert any("to be downloaded once for the metrics: 9.5 GiB, 13 min" in note for note in plan.notes)
    fewer = choose_recipe("t4", overrides={"scoring.preference_model": "transformers:me/own@" + "0" * 40})
    plan = _plan(fewer, [])
    assert plan.disk_bytes["metric networks"] == pytest.approx(6.3e9, rel=0.01)
    assert "not counted on the disk, because the size is not known: me/own" in plan.notes
    assert not metric_networks(choose_recipe("mini").scoring)


def test_phases_without_units_are_not_planned(recipe: Recipe):
    names = [phase.phase for phase in _plan(recipe, [], class_pictures=0, base_samples=0, encoded=0).phases]
    assert "class pictures" not in names
    assert "encode" not in names
    assert {"train", "samples", "score"} <= set(names)


def test_the_slower_of_arithmetic_and_of_starting_operations_decides():
    assert T4.seconds(Work(T4.rate * 3, 1)) == pytest.approx(3)
    assert T4.seconds(Work(1.0, 100_000)) == pytest.approx(100_000 * SECONDS_PER_OPERATION)


def test_devices_are_known_by_the_names_that_their_drivers_tell():
    names = {"Tesla T4": "t4", "NVIDIA A10G": "a10", "NVIDIA A100-SXM4-40GB": "a100", "NVIDIA H100 80GB HBM3": "h100"}
    names |= {"NVIDIA GeForce RTX 4090": "4090", "NVIDIA L4": "l4"}
    assert {name: known_speed(name) for name in names} == {name: DEVICES[key] for name, key in names.items()}
    assert known_speed("NVIDIA L40S") is None


def test_a_folder_is_planned_by_its_own_configuration():
    model = ModelSection.model_validate({"base": "package:naruto_core.mini/weights/base"})
    assert configured(model) == (model, "")


def test_the_miniatures_own_networks_count_as_what_they_are():
    """They were planned as networks of 10 GFLOP each: scoring took 22 s where 10 min 39 s had been planned."""
    recipe = choose_recipe("mini")
    names = {recipe.scoring.set_extractor, recipe.scoring.pair_extractor, str(recipe.scoring.attribute_reader)}
    reader = read_config(WEIGHTS / "reader")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        load_reader(WEIGHTS / "reader", reader)(torch.zeros(1, 3, reader.resolution, reader.resolution))
        judge: Any = open_clip.create_model_from_pretrained(f"local-dir:{WEIGHTS / 'judge'}", return_transform=False)
        judge.encode_image(torch.zeros(1, 3, 128, 128))
    assert names == {f"package:naruto_core.mini/weights/{part}" for part in ("judge", "reader")}
    assert scoring_work(recipe).flops == pytest.approx(counter.get_total_flops(), rel=0.05)
