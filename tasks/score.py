"""Score: embed every sample once, then FID for each variant and a CLIP score for each picture."""

import numpy as np
from prefect import task

from naruto_core.domain import DatasetVersion, PromptSuite, Run, Score, Variant
from naruto_core.recipe import ScoringSection
from naruto_core.scoring import alignment, fid, frechet
from naruto_core.scoring.features import Rows, embed_texts, load_extractor
from tasks.embed import SampleFeatures, reference_features, sample_features
from tasks.place import working_on

CLIP_METRIC, FID_METRIC = "clip", "fid"


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
            scores += _clip_scores(run, variant, shown, texts, section)
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
    run: Run, variant: Variant, drawn: SampleFeatures, texts: dict[str, Rows], section: ScoringSection
) -> list[Score]:
    """One score a picture, and their mean with an interval over prompts."""
    wanted = np.stack([texts[s.prompt] for s in drawn.samples])
    cosines = alignment.cosines(drawn.rows, wanted)
    prompts = [s.prompt for s in drawn.samples]
    mean, low, high = alignment.cluster_mean_interval(cosines.tolist(), prompts, section.resamples, section.seed)
    shared = {"run_id": run.id, "metric": CLIP_METRIC, "variant": variant, "extractor": drawn.extractor}
    version = alignment.VERSION
    method = f"bootstrap over prompts, {section.resamples} resamples, 95 %"
    whole = Score(**shared, value=mean, low=low, high=high, n=len(cosines), version=version, method=method)
    singles = [
        Score(**shared, value=float(c), low=float(c), high=float(c), n=1, version=version, sample_id=s.id)
        for c, s in zip(cosines, drawn.samples, strict=True)
    ]
    return [whole, *singles]
