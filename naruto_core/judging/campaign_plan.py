"""What a campaign asks: every prompt and seed that all contenders drew, some of them of several people."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from naruto_core.domain import Prompt, Sample
from naruto_core.ratings import Mode, Unit

Place = tuple[str, int]  # prompt and seed


def contender(run_id: str, variant: str) -> str:
    """The name of a model in a campaign: run and variant."""
    return f"{run_id}/{variant}"


def plan(
    mode: Mode,
    drawn: Mapping[str, Sequence[Sample]],
    prompts: Sequence[Prompt],
    *,
    overlap: int,
    raters: int,
    gold: int,
    seed: int,
) -> list[Unit]:
    """Units over the samples `drawn` by each contender, of `prompts` alone.

    `overlap` of them, drawn by `seed`, are judged by `raters` people and the others by one: agreement can be measured
    on the former, and votes spread over prompts otherwise. Of pairs, `gold` more set a picture against one of another
    prompt by the same contender, so that the right answer is known.
    """
    draw = random.Random(seed)
    texts = {prompt.slug: prompt.text for prompt in prompts}
    places = {
        name: {(sample.prompt, sample.seed): sample.id for sample in samples if sample.prompt in texts}
        for name, samples in drawn.items()
    }
    units = [
        Unit(slug, texts[slug], number, tuple(places[name][slug, number] for name in names), names)
        for names in combinations(sorted(drawn), mode.pictures)
        for slug, number in sorted(set[Place].intersection(*(set(places[name]) for name in names)))
    ]
    shuffled = draw.sample(units, len(units))
    asked = [replace(unit, raters=raters) for unit in shuffled[:overlap]] + shuffled[overlap:]
    return asked + (_gold(places, prompts, gold, draw) if mode is Mode.PAIR else [])


def _gold(
    places: Mapping[str, Mapping[Place, str]], prompts: Sequence[Prompt], count: int, draw: random.Random
) -> list[Unit]:
    """Right against wrong prompt; only prompts without a common tag, whose pictures look different."""
    tags = {prompt.slug: set(prompt.tags) for prompt in prompts}
    texts = {prompt.slug: prompt.text for prompt in prompts}
    found = [
        Unit(slug, texts[slug], number, (right, wrong), (name, name), raters=_EVERYBODY, gold=right)
        for name, pictures in sorted(places.items())
        for (slug, number), right in sorted(pictures.items())
        for (other, again), wrong in sorted(pictures.items())
        if number == again and other != slug and not tags[slug] & tags[other]
    ]
    return draw.sample(found, min(count, len(found)))


_EVERYBODY = 1_000_000  # gold is for each reviewer
