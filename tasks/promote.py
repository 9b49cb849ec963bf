"""Promote: what a person should know of a run before it is promoted, and the promotion."""

from dataclasses import dataclass
from datetime import UTC, datetime

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from naruto_core.artifacts import Layout
from naruto_core.errors import PromotionRefused
from naruto_core.settings import read_settings
from naruto_core.store.database import open_database
from tasks.prefect_page import scores_markdown
from tasks.progress import say


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run that can be promoted; `description` is what is known of it, in Markdown."""

    run_id: str
    description: str


@task(cache_policy=NO_CACHE)
def examine_candidate(name: str) -> Candidate:
    """The run called `name`. Raises PromotionRefused when it cannot be promoted, NotRecorded when it is unknown."""
    settings = read_settings()
    with open_database(settings.database_url) as database:
        run = database.runs.run(name)
        if fault := database.ratings.promotion_fault(run.id, Layout(settings.root, settings.store)):
            raise PromotionRefused(f"{run.id} cannot be promoted: {fault}.")
        scores = [score for score in database.runs.scores(run.id) if score.sample_id is None]
        description = scores_markdown(run, scores, database.runs.findings(run.id))
    if TaskRunContext.get() is not None:
        create_markdown_artifact(description, key="promotion", description=f"What is known of {run.id}")
    return Candidate(run.id, description)


@task(cache_policy=NO_CACHE)
def set_alias(alias: str, run_id: str, by: str, why: str, accept_warnings: str = "") -> str:
    """Promote the run, by the rules of `naruto_core.store.promotions`; a sentence. Raises PromotionRefused."""
    settings = read_settings()
    layout = Layout(settings.root, settings.store)
    with open_database(settings.database_url) as database:
        promotion = database.ratings.promote(
            alias, run_id, by, why, datetime.now(UTC), {}, layout, accept_warnings=accept_warnings
        )
    sentence = f"{promotion.run_id} is now the {alias}, by {promotion.by}: {promotion.why}"
    say(sentence)
    return sentence
