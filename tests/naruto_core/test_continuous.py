"""A picture of a batch of fixed size equals the Painter's in any company; in one of no fixed size, up to rounding."""

import numpy as np
import pytest
import torch
from PIL.Image import Image

from naruto_core.continuous_batching import ContinuousBatch, Order, Preview
from naruto_core.errors import ModelUnusable
from naruto_core.generation import Job, Painter
from naruto_core.recipe_sections import GenerationSection
from naruto_core.sampling import NotFinite

SECTION = GenerationSection(
    suite="konoha-v1",
    resolution=64,
    num_inference_steps=5,
    guidance_scale=4.0,
    negative_prompt="low quality",
    batch_size=4,
    mixed_precision="bf16",
)


def order(text: str, seed: int, steps: int = 5, guidance: float = 4.0) -> Order:
    return Order(text, seed, "low quality", steps, guidance)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
def test_pictures_equal_the_painters_byte_for_byte_in_any_batch(load_miniature, precision: str, scheduler: str):
    section = SECTION.model_copy(update={"mixed_precision": precision, "scheduler": scheduler, "resolution": 32})
    painter = Painter(load_miniature(), section)
    jobs = [Job("a person with red hair", 1), Job("a pencil sketch of a person", 2)]
    expected = [picture.tobytes() for picture in painter.paint(jobs)]
    batch = ContinuousBatch(painter, 32, 32, fixed_size=True)
    numbers = [batch.join(order(jobs[0].text, jobs[0].seed))]
    batch.step()
    batch.join(order("a forest", 9, steps=2, guidance=1.5))
    batch.step()
    numbers.append(batch.join(order(jobs[1].text, jobs[1].seed)))  # two steps behind the first
    gone = batch.join(order("a cat", 4))
    drawn: dict[int, Image] = {}
    for step in range(8):
        drawn |= {n: picture for n, picture in batch.step().items() if isinstance(picture, Image)}
        if step == 1:
            batch.leave(gone)
        if not batch.size - batch.free:
            break
    assert [drawn[number].tobytes() for number in numbers] == expected
    assert gone not in drawn


def test_without_guidance_it_is_the_picture_that_the_prompt_alone_gives(load_miniature):
    section = SECTION.model_copy(update={"guidance_scale": 1.0})
    painter = Painter(load_miniature(), section)
    (expected,) = painter.paint([Job("a person in the rain", 3)])
    batch = ContinuousBatch(painter, 64, 64, fixed_size=True)
    number = batch.join(order("a person in the rain", 3, guidance=1.0))
    results = [batch.step()[number] for _ in range(5)]
    assert results[:4] == [1, 2, 3, 4]
    assert isinstance(results[4], Image)
    difference = max(abs(a - b) for a, b in zip(results[4].tobytes(), expected.tobytes(), strict=True))
    assert difference <= 2  # half as many rows in the pipeline: another order of summation


def test_a_unet_that_takes_the_guidance_as_an_input_is_refused(load_miniature):
    painter = Painter(load_miniature(), SECTION)
    painter.pipeline.unet.register_to_config(time_cond_proj_dim=256)
    with pytest.raises(ModelUnusable, match=r"weights/base was distilled with the guidance as an input"):
        ContinuousBatch(painter, 64, 64, fixed_size=True)


def test_a_full_batch_accepts_no_further_picture(load_miniature):
    batch = ContinuousBatch(
        Painter(load_miniature(), SECTION.model_copy(update={"batch_size": 3})), 64, 48, fixed_size=True
    )
    for seed in range(4):
        batch.join(order("a cat", seed))
    assert batch.free == 0
    with pytest.raises(ValueError, match="all 4 slots"):
        batch.join(order("a cat", 9))


def test_a_picture_that_overflows_is_an_error_and_the_others_are_drawn(load_miniature):
    painter = Painter(load_miniature(), SECTION)
    jobs = [Job("a cat", 1)]
    (expected,) = painter.paint(jobs)
    batch = ContinuousBatch(painter, 64, 64, fixed_size=True)
    whole, broken = batch.join(order("a cat", 1)), batch.join(order("a cat", 2, guidance=1e38))
    for _ in range(SECTION.num_inference_steps):
        results = batch.step()
    assert isinstance(results[broken], NotFinite)
    assert "lower the guidance scale" in str(results[broken])
    assert results[broken].__traceback__ is None  # a traceback would keep the model in memory
    assert isinstance(results[whole], Image)
    assert results[whole].tobytes() == expected.tobytes()


def difference(one: Image, other: Image) -> float:
    """The mean difference of two pictures, in grey levels of 255."""
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def draw(batch: ContinuousBatch, orders: list[Order]) -> list[Image]:
    numbers = [batch.join(each) for each in orders]
    drawn: dict[int, Image] = {}
    while len(drawn) < len(orders):
        drawn |= {number: result for number, result in batch.step().items() if isinstance(result, Image)}
    return [drawn[number] for number in numbers]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_network_gets_as_many_pictures_as_there_are_and_only_rounding_differs(load_miniature, precision: str):
    section = SECTION.model_copy(update={"mixed_precision": precision})
    painter = Painter(load_miniature(), section)
    expected = painter.paint([Job("a person with red hair", 1)])[0]
    rows: set[int] = set()
    painter.pipeline.unet.register_forward_pre_hook(lambda _module, inputs: rows.add(len(inputs[0])))
    batch = ContinuousBatch(painter, 64, 64, fixed_size=False)
    others = [order("a forest", 2), order("a pencil sketch of a person", 3), order("a cat", 4)]
    alone = draw(batch, [order("a person with red hair", 1)])[0]
    assert rows == {2}  # with and without the prompt
    together = [draw(batch, [*others[:n], order("a person with red hair", 1)])[-1] for n in (1, 2, 3)]
    assert rows == {2, 4, 8}  # three pictures and a repeat take as long as four
    assert max(difference(picture, expected) for picture in (alone, *together)) <= 1
    assert draw(batch, [order("a person with red hair", 1)])[0].tobytes() == alone.tobytes()
    moved = draw(batch, [order("a person with red hair", 1), *others[1:], others[0]])[0]
    assert moved.tobytes() == together[-1].tobytes()  # at the same size, in another place


def test_a_gpu_is_given_no_padding(load_miniature):
    painter = Painter(load_miniature(), SECTION.model_copy(update={"batch_size": 8}))
    batch = ContinuousBatch(painter, 64, 64, fixed_size=False)
    assert batch._network_calls(3) == [(0, 3, 4)]  # a CPU's
    painter.device = torch.device("cuda")
    assert batch._network_calls(1) == [(0, 1, 1)]
    assert batch._network_calls(7) == [(0, 4, 4), (4, 6, 2), (6, 7, 1)]


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpmpp_2m_karras", "unipc"])
def test_a_preview_of_the_last_steps_is_nearly_the_picture(load_miniature, scheduler: str):
    section = SECTION.model_copy(update={"scheduler": scheduler, "mixed_precision": "fp32"})
    batch = ContinuousBatch(Painter(load_miniature(), section), 64, 64, fixed_size=False)
    batch.join(Order("a person with red hair", 1, "", 10, 4.0, previews=(2, 9)))
    results = [next(iter(batch.step().values())) for _ in range(10)]
    early, late, picture = results[1], results[8], results[9]
    assert isinstance(early, Preview)
    assert isinstance(late, Preview)
    assert isinstance(picture, Image)
    assert (early.step, late.step) == (2, 9)
    assert difference(late.picture, picture) < min(4, difference(early.picture, picture))
    assert all(isinstance(results[step], int) for step in (0, 2, 7))
