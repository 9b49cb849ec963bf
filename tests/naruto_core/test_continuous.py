"""A picture of a continuous batch equals the Painter's, whatever pictures join and leave."""

import pytest
from PIL.Image import Image

from naruto_core.continuous_batching import ContinuousBatch, Order
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
    batch = ContinuousBatch(painter, 32, 32)
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
    batch = ContinuousBatch(painter, 64, 64)
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
        ContinuousBatch(painter, 64, 64)


def test_a_full_batch_accepts_no_further_picture(load_miniature):
    batch = ContinuousBatch(Painter(load_miniature(), SECTION.model_copy(update={"batch_size": 3})), 64, 48)
    for seed in range(4):
        batch.join(order("a cat", seed))
    assert batch.free == 0
    with pytest.raises(ValueError, match="all 4 slots"):
        batch.join(order("a cat", 9))


def test_a_picture_that_overflows_is_an_error_and_the_others_are_drawn(load_miniature):
    painter = Painter(load_miniature(), SECTION)
    jobs = [Job("a cat", 1)]
    (expected,) = painter.paint(jobs)
    batch = ContinuousBatch(painter, 64, 64)
    whole, broken = batch.join(order("a cat", 1)), batch.join(order("a cat", 2, guidance=1e38))
    for _ in range(SECTION.num_inference_steps):
        results = batch.step()
    assert isinstance(results[broken], NotFinite)
    assert "lower the guidance scale" in str(results[broken])
    assert results[broken].__traceback__ is None  # a traceback would keep the model in memory
    assert isinstance(results[whole], Image)
    assert results[whole].tobytes() == expected.tobytes()
