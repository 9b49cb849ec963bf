"""Rescore: measure a finished run again. Where nothing changed since, nothing is computed, or imported for it."""

from naruto_core.artifacts import Layout
from naruto_core.domain import NOT_MEASURED
from naruto_core.settings import read_settings
from naruto_core.store.scores_digest import write_scores_digest
from naruto_core.store.sqlite_records import open_records
from tasks.progress import say
from tasks.results import recorded_scores_are_current


def rescore(name: str) -> str:
    """Measure the run called `name` again as its recipe says; a sentence that says which set scores changed.

    Where the recorded scores are those of the same pictures, captions, networks and code, nothing is computed.
    """
    sentence = _unchanged(name)
    if sentence is None:
        from tasks.evaluation import measure_again

        sentence = measure_again(name)
    say(sentence)
    return sentence


def unmeasured(name: str) -> str:
    """Which metrics of a run could not be had, and why; "" when there is none."""
    with open_records(read_settings().database_url) as records:
        findings = records.findings(records.run(name).id)
    return next((finding.sentence for finding in findings if finding.name == NOT_MEASURED), "")


def _unchanged(name: str) -> str | None:
    """The sentence about a run whose scores are current; None for any other. Files in a bucket are fetched first."""
    settings = read_settings()
    if settings.store:
        return None
    layout = Layout(settings.root)
    with open_records(settings.database_url) as records:
        run = records.run(name)
        scores = records.scores(run.id)
        if not recorded_scores_are_current(layout, records, run, scores):
            return None
    write_scores_digest(layout, run.id, scores)  # where that file was altered
    return f"{run.id}: nothing moved"
