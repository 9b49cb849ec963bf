"""Train: draw the class pictures, encode everything once, fit the adapter, write it, remember it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from prefect import task

from naruto_core import sdxl
from naruto_core.artifacts import sha256_file
from naruto_core.dataset.prepare import prepare
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Adapter, DatasetVersion, Run, Split, StepRecord
from naruto_core.recipe import GenerationSection, ModelSection, TrainingSection
from naruto_core.telemetry.tracking import tracking
from naruto_core.training.batches import TrainingData
from naruto_core.training.examples import Captioned, Examples, encode_examples, examples_key
from naruto_core.training.loop import train_adapter
from naruto_core.training.lora import write_adapter
from tasks.place import Place, working_on
from tasks.prior import ClassPictures, class_pictures
from tasks.reporting import reporter, say


@task
def train(
    run: Run, model: ModelSection, section: TrainingSection, drawing: GenerationSection, dataset: DatasetVersion
) -> Adapter:
    """Fit one LoRA adapter; goes on from the run's checkpoint, and finds an adapter already trained.

    `drawing` is how the base draws class pictures, when `section.prior` asks for them.
    """
    with working_on(run, "train") as place:
        if known := place.store.find_adapter(run.id):
            return known
        drawn = section.prior and class_pictures(place, model, section.prior, drawing, section.seed)
        pipeline = sdxl.load_pipeline(model, section.mixed_precision, place.device)
        encode = partial(_examples, place, pipeline, model, section, dataset)
        data = TrainingData(
            encode(Split.TRAIN, None),
            drawn and _class_examples(place, pipeline, model, section, drawn),
            section.validation and encode(Split.REFERENCE, section.validation.num_validation_images),
        )

        with tracking(place.settings.trackers, place.settings.mlflow_uri, place.layout, run, section, say) as tell:

            def remember(steps: list[StepRecord]) -> None:
                place.store.add_steps(run.id, steps)
                tell(steps)

            train_adapter(
                pipeline,
                data,
                section,
                place.layout.checkpoint(run.id),
                place.settings.checkpoint_seconds,
                f"{run.fingerprint}/{dataset.id}",
                reporter(),
                remember,
            )
        path = place.layout.adapter(run.id)
        write_adapter(pipeline, path)
        adapter = Adapter(run.id, place.layout.relative(path), sha256_file(path), section.rank, section.max_train_steps)
        place.store.add_adapter(adapter)
        place.layout.checkpoint(run.id).unlink(missing_ok=True)  # the adapter is safe: nothing is left to resume
        return adapter


def _examples(
    place: Place,
    pipeline: Any,
    model: ModelSection,
    section: TrainingSection,
    dataset: DatasetVersion,
    split: Split,
    limit: int | None,
) -> Examples:
    pictures = {p.sha256 + p.caption: p for p in read_pictures(place.layout, dataset) if p.split is split}

    def read(name: str) -> Captioned:
        picture = pictures[name]
        data = place.layout.picture(picture.sha256, picture.suffix).read_bytes()
        return _captioned(picture.sha256[:12], picture.caption, data, section.resolution)

    source, names = f"{dataset.id}/{split}/{limit}", sorted(pictures)[:limit]
    return _encoded(place, pipeline, model, section, source, names, read, section.instance_prompt)


def _class_examples(
    place: Place, pipeline: Any, model: ModelSection, section: TrainingSection, drawn: ClassPictures
) -> Examples:
    def read(name: str) -> Captioned:
        index = int(name)
        return _captioned(f"class {name}", drawn.jobs[index].text, drawn.path(index).read_bytes(), section.resolution)

    names = [str(index) for index in range(len(drawn.jobs))]
    return _encoded(place, pipeline, model, section, drawn.key, names, read, "")


def _captioned(name: str, caption: str, data: bytes, resolution: int) -> Captioned:
    ready = prepare(data, resolution)
    return Captioned(name, caption, ready.pixels, ready.original_size, ready.crop)


def _encoded(
    place: Place,
    pipeline: Any,
    model: ModelSection,
    section: TrainingSection,
    source: str,
    names: list[str],
    read: Callable[[str], Captioned],
    instance_prompt: str,
) -> Examples:
    key = examples_key(source, sdxl.identity(model), instance_prompt, section.resolution, section.mixed_precision)
    return encode_examples(pipeline, names, read, instance_prompt, place.layout.cache(key), reporter())
