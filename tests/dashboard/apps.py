"""Pages run by Streamlit's AppTest, and a campaign with votes."""

from datetime import UTC, datetime
from pathlib import Path

from streamlit.testing.v1 import AppTest

from naruto_core.domain import Run, Variant
from naruto_core.judging.campaign_plan import contender, plan_units
from naruto_core.ratings import Action, Campaign, Mode, Outcome, RatingEvent, Role
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def page(name: str, part: str = "", **query: list[str] | str) -> AppTest:
    def run(view: str) -> None:
        from importlib import import_module

        import_module(f"dashboard.views.{view}").show()

    app = AppTest.from_function(run, args=(name,), default_timeout=60)
    app.query_params.update(query)
    if part:
        app.session_state["part"] = part
    return app.run()


def all_text(app: AppTest) -> str:
    kinds = (app.text, app.info, app.warning, app.error, app.success, app.title, app.header, app.subheader, app.caption)
    tables = [table.value.to_csv() for table in (*app.dataframe, *app.table)]
    return "\n".join([*(element.value for kind in kinds for element in kind), *tables])


def finished_campaign(
    ratings: Ratings, store: Store, run: Run, mode: Mode = Mode.PAIR, prompts: int | None = None
) -> str:
    """A campaign in which one person voted for the fused model every time; its id. All prompts, or the first ones."""
    samples = {contender(run.id, v.value): store.samples(run.id, v) for v in (Variant.BASE, Variant.FUSED)}
    suite = store.prompts(run.id)
    assert suite
    units = plan_units(mode, samples, suite.prompts[:prompts], overlap=0, raters=2, gold=0, seed=0)
    campaign = ratings.open_campaign(Campaign("", "asked", "Which?", mode, NOW, repeats=0.0), units, 0)
    ratings.add_reviewer("admin", Role.ADMIN)
    reviewer, _ = ratings.add_reviewer("Ann", Role.REVIEWER)
    while assignment := ratings.next_assignment(campaign.id, reviewer.id, NOW):
        answer = Outcome.LEFT if assignment.samples[0].startswith("fused") else Outcome.RIGHT
        ratings.record(reviewer.id, RatingEvent(assignment.id, Action.VOTE, assignment.id, 3.0, "1x1", answer), NOW)
    return campaign.id
