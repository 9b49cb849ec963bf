"""The units of a campaign: every prompt and seed that all its models drew, some of them for several reviewers."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from naruto_core.domain import Prompt, Sample
from naruto_core.ratings import Mode, Unit

PromptSeed = tuple[str, int]  # a prompt's slug and a seed
_OVERLAP_SHARE = 0.1  # of the units of a budget


def contender(run_id: str, variant: str) -> str:
    """The name of a model in a campaign, from run and variant: "RUN/fused"."""
    return f"{run_id}/{variant}"


@dataclass(frozen=True, slots=True)
class Budget:
    """How a campaign spends its votes: `limit` units, of which `overlap` are rated by `raters` people each."""

    limit: int
    overlap: int
    raters: int

    @property
    def votes(self) -> int:
        """The votes on all units, gold units and repeats left out."""
        return self.limit + self.overlap * (self.raters - 1)


def plan_budget(votes: int, people: int) -> Budget:
    """The units on which `people` spend `votes` votes in all: a tenth of the units is rated by up to three people.

    One person alone measures no agreement, so that every unit is rated once then.
    """
    raters = min(3, max(1, people))
    units = round(votes / (1 + _OVERLAP_SHARE * (raters - 1)))
    overlap = min(units, (votes - units) // (raters - 1)) if raters > 1 else 0
    return Budget(votes - overlap * (raters - 1), overlap, raters)


def plan_units(
    mode: Mode,
    drawn: Mapping[str, Sequence[Sample]],
    prompts: Sequence[Prompt],
    *,
    overlap: int,
    raters: int,
    gold: int,
    seed: int,
    limit: int | None = None,
) -> list[Unit]:
    """Units from the samples `drawn` by each contender, for `prompts` only: all, or at most `limit`.

    `overlap` units, drawn at random with `seed`, are judged by `raters` reviewers, to measure agreement; the other
    units by one reviewer, to cover more prompts. In pair mode there are `gold` units beyond the `limit`, for every
    reviewer: the right picture against one of another prompt by the same contender, so that the right answer is known.
    """
    rng = random.Random(seed)
    texts = {prompt.slug: prompt.text for prompt in prompts}
    sample_ids = {
        name: {(sample.prompt, sample.seed): sample.id for sample in samples if sample.prompt in texts}
        for name, samples in drawn.items()
    }
    units = [
        Unit(slug, texts[slug], number, tuple(sample_ids[name][slug, number] for name in names), names)
        for names in combinations(sorted(drawn), mode.pictures)
        for slug, number in sorted(set[PromptSeed].intersection(*(set(sample_ids[name]) for name in names)))
    ]
    chosen = units if limit is None else _spread(units, limit, rng)
    shuffled = rng.sample(chosen, len(chosen))
    planned = [replace(unit, raters=raters) for unit in shuffled[:overlap]] + shuffled[overlap:]
    return planned + (_gold(sample_ids, prompts, gold, rng) if mode is Mode.PAIR else [])


def _spread(units: Sequence[Unit], limit: int, rng: random.Random) -> list[Unit]:
    """`limit` of the `units` at random, as many of each set of models; in each, every prompt before any comes again."""
    rounds: Counter[tuple[tuple[str, ...], str]] = Counter()
    by_models: dict[tuple[str, ...], list[tuple[int, Unit]]] = {}
    for unit in rng.sample(units, len(units)):
        by_models.setdefault(unit.contenders, []).append((rounds[unit.contenders, unit.prompt], unit))
        rounds[unit.contenders, unit.prompt] += 1
    places = [
        (place, unit)
        for of_models in by_models.values()
        for place, (_, unit) in enumerate(sorted(of_models, key=lambda entry: entry[0]))
    ]
    return [unit for _, unit in sorted(places, key=lambda entry: entry[0])[:limit]]


def _gold(
    sample_ids: Mapping[str, Mapping[PromptSeed, str]], prompts: Sequence[Prompt], count: int, rng: random.Random
) -> list[Unit]:
    """Pairs of the right and the wrong prompt; only of prompts without a common tag, so that the pictures differ."""
    tags = {prompt.slug: set(prompt.tags) for prompt in prompts}
    texts = {prompt.slug: prompt.text for prompt in prompts}
    units = [
        Unit(slug, texts[slug], number, (right, wrong), (name, name), gold=right)
        for name, pictures in sorted(sample_ids.items())
        for (slug, number), right in sorted(pictures.items())
        for (other_slug, other_number), wrong in sorted(pictures.items())
        if number == other_number and other_slug != slug and not tags[slug] & tags[other_slug]
    ]
    return rng.sample(units, min(count, len(units)))
