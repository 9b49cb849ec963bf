"""Captions: those of a recorded dataset version, looked through for noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from naruto_core.dataset.caption_audit import (
    CaptionFault,
    CaptionFinding,
    CaptionSummary,
    Similarity,
    audit_captions,
    has_letters_or_digits,
    summarise_captions,
)
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion, Finding, Picture
from naruto_core.errors import ModelUnusable, NotRecorded
from naruto_core.recipe import Recipe
from naruto_core.scoring.features import Extractor, load_extractor
from naruto_core.scoring.sample_metrics import cosines
from naruto_core.store.writes import Store
from tasks.context import TaskContext, task_context
from tasks.features import real_features, text_features

NOISY = 0.05  # share of captions that look wrong from which a run carries a warning


@dataclass(frozen=True, slots=True)
class CaptionAudit:
    """What was looked at, what was found, and the figures of it."""

    dataset: DatasetVersion
    pictures: tuple[Picture, ...]
    findings: tuple[CaptionFinding, ...]
    summary: CaptionSummary
    length: str  # how many captions the text encoders read wholly, in words


def check_captions(name: str, recipe: Recipe, *, words_only: bool = False) -> CaptionAudit:
    """Audit the captions of the dataset `name`: an id, the beginning of one, or a source.

    Similarity is measured by `scoring.pair_extractor` of the recipe, on pictures as its scores see them; with
    `words_only` not at all, and no model is loaded. Embeddings are kept: a second audit computes none. Raises
    NotRecorded for a name that nothing was ingested under.
    """
    with task_context() as context:
        dataset = find_dataset(context.store, name)
        pictures = read_pictures(context.layout, dataset)
        words_only = words_only or not _any_caption(pictures)
        extractor = None if words_only else load_extractor(recipe.scoring.pair_extractor, lambda: context.device)
        similarity = None if extractor is None else _similarity(context, pictures, recipe, extractor)
    length, truncated = _lengths(pictures, recipe)
    return _audit(dataset, pictures, similarity, extractor, length, truncated)


def _lengths(pictures: Sequence[Picture], recipe: Recipe) -> tuple[str, dict[str, str]]:
    """How many captions are too long in words, and what is cut of which; why it is not known, where that is so."""
    from tasks.truncation import (  # imports the tokenizers
        StyleCaptions,
        count_captions,
        limit_of,
        prompt_sentence,
        training_text,
    )

    try:
        limit = limit_of(recipe)
    except ModelUnusable as error:
        return f"captions that are too long for the model were not looked for: {error}", {}
    prompt = recipe.training.instance_prompt
    report = count_captions(recipe, [StyleCaptions(prompt, pictures)], limit)
    cut = {found.text: f"{found.sentence} (from {found.word!r})" for found in report.truncated}
    merged = {text: len(group) for group in report.merged for text in group}
    of_caption: dict[str, str] = {}
    for caption in {picture.caption for picture in pictures}:
        text = training_text(recipe, prompt, caption)
        if text in cut:
            others = f"; {merged[text]} different captions become this text" if text in merged else ""
            of_caption[caption] = cut[text] + others
    known = prompt_sentence([StyleCaptions(prompt, pictures)])
    length = f"with the instance prompt {prompt!r}, {report.sentence('captions')}"
    return f"{known} {length}".strip(), of_caption


def find_caption_noise(context: TaskContext, run_id: str, dataset: DatasetVersion, recipe: Recipe) -> Finding:
    """How much of what a run was taught may be wrong, as a finding on the run."""
    pictures = read_pictures(context.layout, dataset)
    if not _any_caption(pictures):
        sentence = (
            "no picture has a caption: all were trained with the instance prompt alone; "
            f"`naruto recaption {dataset.id} --model FOLDER` writes captions."
        )
        figures = {str(CaptionFault.EMPTY): float(len(pictures)), "share": 1.0}
        return Finding(run_id, "caption noise", True, sentence, figures)
    extractor = load_extractor(recipe.scoring.pair_extractor, lambda: context.device)
    summary = _audit(dataset, pictures, _similarity(context, pictures, recipe, extractor), extractor).summary
    counts = {kind: count for kind, count in summary.counts.items() if kind is not CaptionFault.TRUNCATED}
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    sentence = (
        f"{summary.flagged} of {summary.n} captions ({summary.share:.1%}) look wrong: {kinds}; "
        f"`naruto captions {dataset.id}` lists them."
        if summary.flagged
        else f"none of {summary.n} captions looks wrong."
    )
    figures = {str(kind): float(count) for kind, count in counts.items()} | {"share": summary.share}
    return Finding(run_id, "caption noise", is_noisy(summary.share), sentence, figures)


def is_noisy(share: float) -> bool:
    """Whether so many of the captions, 0 to 1, look wrong that a run carries a warning: more than `NOISY`."""
    return share > NOISY


def _any_caption(pictures: Sequence[Picture]) -> bool:
    return any(has_letters_or_digits(picture.caption) for picture in pictures)


def _audit(
    dataset: DatasetVersion,
    pictures: Sequence[Picture],
    similarity: Similarity | None,
    extractor: Extractor | None,
    length: str = "",
    truncated: Mapping[str, str] | None = None,
) -> CaptionAudit:
    findings = audit_captions(pictures, similarity, truncated)
    summary = summarise_captions(pictures, findings, similarity, extractor.id if extractor else "")
    return CaptionAudit(dataset, tuple(pictures), tuple(findings), summary, length)


def _similarity(context: TaskContext, pictures: Sequence[Picture], recipe: Recipe, extractor: Extractor) -> Similarity:
    """The cosine of each picture with its caption."""
    captions = sorted({picture.caption for picture in pictures})
    resolution, batch_size = recipe.generation.resolution, recipe.scoring.batch_size
    picture_features = real_features(context, pictures, extractor, resolution, batch_size)
    text_features_of = text_features(context, captions, extractor)
    row = {caption: i for i, caption in enumerate(captions)}
    return cosines(picture_features, text_features_of[[row[picture.caption] for picture in pictures]])


def find_dataset(store: Store, name: str) -> DatasetVersion:
    """The version with that id or the only one whose id begins so; of a source with several, the newest."""
    versions = store.datasets()
    by_id = [version for version in versions if name.startswith("ds-") and version.id.startswith(name)]
    if len(by_id) > 1:
        raise NotRecorded(f"{name!r} could be any of {len(by_id)} datasets; type more of the id.")
    matches = by_id or [version for version in versions if version.source == name]
    if not matches:
        names = ", ".join(f"{version.id} ({version.source})" for version in versions[:5]) or "none yet"
        raise NotRecorded(f"there is no dataset {name!r}: bring it in with `naruto ingest`; recorded are {names}.")
    return max(matches, key=lambda version: version.delta_version)
