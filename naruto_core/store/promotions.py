"""Promotions: which run an alias such as `champion` names, and its history.

The rules hold for every page and program: a run is refused that is not done, not scored or cannot be loaded, and a run
with warnings unless they are accepted.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from naruto_core.artifacts import Layout
from naruto_core.domain import RunState, Variant
from naruto_core.errors import NotRecorded, PromotionRefused, RecordDamaged
from naruto_core.ratings import Promotion
from naruto_core.store.connection import Repository
from naruto_core.store.rating_schema import PromotionRow
from naruto_core.store.schema import AdapterRow, FindingRow, RunRow, ScoreRow
from naruto_core.store.verification import adapter_fault

CHAMPION = "champion"


class Promotions(Repository):
    """Promotions are append-only; the newest of an alias counts, and a rollback is one more promotion.

    `layout` locates the adapter files. Every change is one transaction, so its checks still hold when it is written.
    """

    def promote(
        self,
        alias: str,
        run_id: str,
        by: str,
        why: str,
        now: datetime,
        checks: dict[str, str],
        layout: Layout,
        *,
        accept_warnings: str = "",
    ) -> Promotion:
        """Set `alias` to a run. `by` is who decides, `why` the reason, `checks` what was known (question: answer).

        Raises NotRecorded for an unknown run; PromotionRefused without a name or a reason, for a run with a
        `promotion_fault`, and for a run with warnings unless `accept_warnings` is its id.
        """
        if not by.strip() or not why.strip():
            raise PromotionRefused("a promotion needs a name and a reason: say who decides, and why.")
        if layout.bucket:  # a file is fetched before the transaction, which lets no other process write
            with self._reading() as session:
                _refuse_faulty(session, run_id, layout)
        with self._writing() as session:
            _refuse_faulty(session, run_id, layout)
            warnings = _warnings(session, run_id)
            if warnings and accept_warnings.strip() != run_id:
                raise PromotionRefused(
                    f"{run_id} has warnings ({', '.join(warnings)}): type its id to promote it anyway (in a terminal "
                    f"`--accept-warnings {run_id}`)."
                )
            accepted = {"Warnings accepted": ", ".join(warnings)} if warnings else {}
            row = PromotionRow(
                alias=alias, run_id=run_id, by=by.strip(), why=why.strip(), at=now, checks=checks | accepted,
                rollback=False,
            )  # fmt: skip
            session.add(row)
            return row.to_domain()

    def promotion_fault(self, run_id: str, layout: Layout) -> str:
        """Why a run cannot be promoted, as the end of a sentence; "" when it can. NotRecorded for an unknown run."""
        with self._reading() as session:
            return _fault(session, run_id, layout)

    def roll_back(self, alias: str, by: str, now: datetime, layout: Layout, *, seen: str = "") -> Promotion:
        """Set `alias` to the run that it named before. Promotions are a stack: a second rollback goes one step further
        back, and none goes to a run that was rolled back from and not promoted since.

        `seen` is the run that whoever decides saw as the current one; "" is any. Raises PromotionRefused where the
        current one is another by now, without a name, without an earlier run, and when that run cannot be loaded.
        """
        if not by.strip():
            raise PromotionRefused("a rollback needs a name: say who decides.")
        if layout.bucket:  # as in `promote`
            with self._reading() as session:
                _refuse_faulty(session, _rolled_back(session, alias)[1], layout)
        with self._writing() as session:
            current, target = _rolled_back(session, alias)
            if seen not in ("", current):
                raise PromotionRefused(f"the {alias} is {current} by now, not {seen}: look again before you roll back.")
            _refuse_faulty(session, target, layout)
            row = PromotionRow(
                alias=alias, run_id=target, by=by.strip(), why=f"rolled back from {current}", at=now, checks={},
                rollback=True,
            )  # fmt: skip
            session.add(row)
            return row.to_domain()

    def promotions(self, alias: str) -> list[Promotion]:
        """The history of an alias, newest first; the first is the current one."""
        query = select(PromotionRow).where(PromotionRow.alias == alias).order_by(PromotionRow.id.desc())
        with self._reading() as session:
            return [row.to_domain() for row in session.scalars(query)]


def _refuse_faulty(session: Session, run_id: str, layout: Layout) -> None:
    if fault := _fault(session, run_id, layout):
        raise PromotionRefused(f"{run_id} cannot be promoted: {fault}. Repeat its `naruto run`, or choose another run.")


def _fault(session: Session, run_id: str, layout: Layout) -> str:
    run = session.get(RunRow, run_id)
    if run is None:
        raise NotRecorded(f"there is no run {run_id}.")
    if run.state is not RunState.DONE:
        return f"it is not done ({run.state.value})"
    trained = ScoreRow.variant.in_((Variant.ADAPTED, Variant.FUSED))
    set_scores = select(ScoreRow.id).where(ScoreRow.run_id == run_id, ScoreRow.sample_id.is_(None), trained)
    if session.scalar(set_scores.limit(1)) is None:
        return "its adapted or fused model is not scored"
    adapters = [row.to_domain() for row in session.scalars(select(AdapterRow).where(AdapterRow.run_id == run_id))]
    if not adapters:
        return "it has no adapter"
    try:
        return next((fault for adapter in adapters if (fault := adapter_fault(layout, adapter))), "")
    except RecordDamaged as error:
        return str(error).rstrip(".")


def _warnings(session: Session, run_id: str) -> list[str]:
    query = select(FindingRow.name).where(FindingRow.run_id == run_id, FindingRow.warning)
    return list(session.scalars(query.order_by(FindingRow.name)))


def _rolled_back(session: Session, alias: str) -> tuple[str, str]:
    """The current run of `alias`, and the run that a rollback would set. PromotionRefused where there is none."""
    history = session.scalars(select(PromotionRow).where(PromotionRow.alias == alias).order_by(PromotionRow.id))
    current, target = _replayed([row.to_domain() for row in history])
    if target is None:
        raise PromotionRefused(f"{alias} has no earlier run: there is nothing to roll back to.")
    return current, target


def _replayed(history: Sequence[Promotion]) -> tuple[str, str | None]:
    """The current run of a `history` (oldest first), and the run that a rollback would set.

    The history is replayed, because versions before 0008 could roll back to a run that was rolled back from.
    """
    stack: list[str] = []
    rejected: set[str] = set()
    for event in history:
        if event.rollback and stack:
            rejected.add(stack[-1])
            while stack and stack[-1] != event.run_id:
                stack.pop()
        elif not event.rollback:
            rejected.discard(event.run_id)
        if not stack or not event.rollback:
            stack.append(event.run_id)
    if not stack:
        return "", None
    earlier = (run_id for run_id in reversed(stack) if run_id not in rejected | {stack[-1]})
    return stack[-1], next(earlier, None)
