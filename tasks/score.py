"""Score: embed every sample once, then FID for each variant and a CLIP score for each picture."""

import numpy as np
from prefect import task

from naruto_core.domain import DatasetVersion, PromptSuite, Run, Score, Variant
from naruto_core.recipe import ScoringSection
from naruto_core.scoring import alignment, fid, frechet
from naruto_core.scoring.features import Rows, embed_texts, load_extractor
from tasks.embed import SampleFeatures, reference_features, sample_features
from tasks.place import working_on

FID_METRIC, CLIP_METRIC, CLIP_STYLE_METRIC = "fid", "clip", "clip on base styles"
STYLE_TAG = "style"  # of prompts that belong to the base model


@task
def score(run: Run, section: ScoringSection, suite: PromptSuite, dataset: DatasetVersion, resolution: int) -> int:
    """Measure the run; the number of scores kept. Embeddings that are already there are not computed again."""
    with working_on(run, "score") as place:
        sets = load_extractor(section.set_extractor, place.device)
        same = section.pair_extractor == section.set_extractor
        pairs = sets if same else load_extractor(section.pair_extractor, place.device)
        reference = reference_features(place, dataset, sets, resolution, section.batch_size)
        texts = dict(
            zip((p.slug for p in suite.prompts), embed_texts(pairs, [p.text for p in suite.prompts]), strict=True)
        )

        scores: list[Score] = []
        for variant in dict.fromkeys(s.variant for s in place.store.samples(run.id)):
            drawn = sample_features(place, run, variant, sets, section.batch_size)
            scores.append(_fid_score(run, variant, drawn, reference, dataset.id))
            shown = drawn if same else sample_features(place, run, variant, pairs, section.batch_size)
            scores += _clip_scores(run, variant, shown, texts, suite, section)
        place.store.add_scores(scores)
        return len(scores)


def _fid_score(run: Run, variant: Variant, drawn: SampleFeatures, reference: SampleFeatures, dataset_id: str) -> Score:
    value = fid.fid(drawn.rows, reference.rows)
    low, high = frechet.frechet_interval(drawn.rows, reference.rows, [s.prompt for s in drawn.samples])
    return Score(
        run_id=run.id,
        metric=FID_METRIC,
        variant=variant,
        value=value,
        low=low,
        high=high,
        n=len(drawn.rows),
        extractor=drawn.extractor,
        version=fid.fid_version(),
        reference=f"{dataset_id}:{len(reference.rows)}",
        method="delete-one-prompt jackknife, 95 %",
    )


def _clip_scores(
    run: Run,
    variant: Variant,
    drawn: SampleFeatures,
    texts: dict[str, Rows],
    suite: PromptSuite,
    section: ScoringSection,
) -> list[Score]:
    """One score a picture; their mean; and the mean over the prompts that ask for a style of the base.

    The last says what the adapter cost: a base that has forgotten its own styles scores low there.
    """
    wanted = np.stack([texts[s.prompt] for s in drawn.samples])
    cosines = alignment.cosines(drawn.rows, wanted)
    prompts = np.array([s.prompt for s in drawn.samples])
    own_styles = np.isin(prompts, [p.slug for p in suite.prompts if STYLE_TAG in p.tags])
    shared = {"run_id": run.id, "variant": variant, "extractor": drawn.extractor, "version": alignment.VERSION}
    scores = [
        Score(metric=CLIP_METRIC, value=float(c), low=float(c), high=float(c), n=1, sample_id=s.id, **shared)
        for c, s in zip(cosines, drawn.samples, strict=True)
    ]
    method = f"bootstrap over prompts, {section.resamples} resamples, 95 %"
    for metric, part in ((CLIP_METRIC, np.full(len(prompts), True)), (CLIP_STYLE_METRIC, own_styles)):
        if part.any():
            mean, low, high = alignment.cluster_mean_interval(
                cosines[part].tolist(), prompts[part].tolist(), section.resamples, section.seed
            )
            scores.append(
                Score(metric=metric, value=mean, low=low, high=high, n=int(part.sum()), method=method, **shared)
            )
    return scores
