"""Import pictures: those that another program drew for the prompts of a suite become samples of a run."""

from naruto_core.artifacts import is_intact, sha256_bytes, sha256_file
from naruto_core.dataset.sample_folder import FoundPicture, SampleFolder, decoded
from naruto_core.domain import Sample, Variant
from naruto_core.errors import DatasetUnusable
from naruto_core.generation import sample_id, save_picture
from tasks.context import OpenRun, RunContext, run_context
from tasks.progress import say, unit_reporter
from tasks.pruning import run_task

_BATCH = 16  # pictures recorded in one transaction


def say_sizes(found: SampleFolder, resolution: int) -> None:
    """Say how large the pictures are, where that differs among them or from what the recipe draws."""
    if set(found.sizes) == {(resolution, resolution)}:
        return
    counts = sorted(found.sizes.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{count} of {width} x {height}" for (width, height), count in counts)
    mixed = "several sizes" if len(counts) > 1 else "another size than the recipe draws"
    say(
        f"warning: the pictures have {mixed} ({listed}; the recipe: {resolution} x {resolution}): scores see each one "
        "resized to the measuring network's input, so sharpness may differ for that reason alone"
    )


@run_task()
def record_pictures(opened: OpenRun, found: SampleFolder) -> int:
    """Save every picture as a sample of the adapted model, unless that was done; the number of samples then."""
    with run_context(opened, "import", needs_device=False) as context:
        context.store.add_prompts(opened.id, context.suite)
        recorded = {
            (sample.prompt, sample.seed)
            for sample in context.store.samples(opened.id, Variant.ADAPTED)
            if is_intact(context.layout.absolute(sample.path), sample.sha256)
        }
        missing = [picture for picture in found.pictures if (picture.slug, picture.seed) not in recorded]
        report = unit_reporter("import", len(missing), "picture")
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            context.store.add_samples([_save(context, picture) for picture in batch])
            report(start + len(batch))
        return len(found.pictures)


def _save(context: RunContext, picture: FoundPicture) -> Sample:
    """Save the pixels without what the file says of its maker, which may be private (a workflow, an account)."""
    imported = context.recipe.imported
    if imported is None or sha256_bytes(picture.path.read_bytes()) != picture.sha256:
        raise DatasetUnusable(f"{picture.path} was changed while it was imported: run the same command again.")
    identifier = sample_id(context.run.id, Variant.ADAPTED, picture.slug, picture.seed)
    path = context.layout.sample(context.run.id, identifier)
    text = next(prompt.text for prompt in context.suite.prompts if prompt.slug == picture.slug)
    facts: dict[str, object] = {
        "run": context.run.id,
        "variant": Variant.ADAPTED,
        "prompt": text,
        "seed": picture.seed,
        "imported": imported.name,
    }
    save_picture(decoded(picture.path), path, facts)
    return Sample(
        id=identifier,
        run_id=context.run.id,
        variant=Variant.ADAPTED,
        prompt=picture.slug,
        seed=picture.seed,
        path=context.layout.relative(path),
        sha256=sha256_file(path),
    )
