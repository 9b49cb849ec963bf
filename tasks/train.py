"""Train: encode the dataset once, fit the adapter, write it, remember it."""

from prefect import task

from naruto_core import sdxl
from naruto_core.artifacts import sha256_file
from naruto_core.dataset.prepare import prepare
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Adapter, DatasetVersion, Run, Split, StepRecord
from naruto_core.recipe import ModelSection, TrainingSection
from naruto_core.training.examples import Captioned, Examples, encode_examples, examples_key
from naruto_core.training.loop import train_adapter
from naruto_core.training.lora import write_adapter
from tasks.place import Place, working_on
from tasks.reporting import reporter


@task
def train(run: Run, model: ModelSection, section: TrainingSection, dataset: DatasetVersion) -> Adapter:
    """Fit one LoRA adapter; goes on from the run's checkpoint, and finds an adapter already trained."""
    with working_on(run, "train") as place:
        if known := place.store.find_adapter(run.id):
            return known
        pipeline = sdxl.load_pipeline(model, section.mixed_precision, place.device)
        examples = _examples(place, pipeline, model, section, dataset)

        def remember(steps: list[StepRecord]) -> None:
            place.store.add_steps(run.id, steps)

        train_adapter(
            pipeline,
            examples,
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
    place: Place, pipeline: object, model: ModelSection, section: TrainingSection, dataset: DatasetVersion
) -> Examples:
    pictures = {p.sha256 + p.caption: p for p in read_pictures(place.layout, dataset) if p.split is Split.TRAIN}

    def read(name: str) -> Captioned:
        picture = pictures[name]
        data = place.layout.picture(picture.sha256, picture.suffix).read_bytes()
        ready = prepare(data, section.resolution)
        return Captioned(picture.sha256[:12], picture.caption, ready.pixels, ready.original_size, ready.crop)

    key = examples_key(
        dataset.id, sdxl.identity(model), section.instance_prompt, section.resolution, section.mixed_precision
    )
    folder = place.layout.cache(key)
    return encode_examples(pipeline, sorted(pictures), read, section.instance_prompt, folder, reporter())
