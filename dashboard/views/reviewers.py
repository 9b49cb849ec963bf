"""Each reviewer of a campaign: progress, overlap, gold pairs, side bias; and who is excluded. Only admins see it."""

from datetime import UTC, datetime

import streamlit as st

from dashboard.queries import votes
from dashboard.queries.database import database
from dashboard.views.verdicts import share_text
from naruto_core.errors import NarutoError
from naruto_core.judging.reviewer_quality import ReviewerQuality, is_biased
from naruto_core.ratings import Campaign, Exclusion, ReviewerProgress


def show(campaign: Campaign) -> None:
    """A line for each reviewer, and a form that excludes one from this campaign."""
    ratings = database().ratings
    progress = ratings.reviewer_progress(campaign.id)
    if not progress:
        st.info("Nobody has voted yet. Send the reviewers their links from the part People.")
        return
    names = {reviewer.id: reviewer.name for reviewer in ratings.reviewers()}
    qualities = {quality.reviewer_id: quality for quality in votes.reviewer_quality(campaign.id)}
    excluded = {exclusion.reviewer_id: exclusion for exclusion in ratings.exclusions(campaign.id)}
    lines = [
        _line(names.get(row.reviewer_id, "?"), row, qualities.get(row.reviewer_id), row.reviewer_id in excluded)
        for row in progress
    ]
    time = st.column_config.DatetimeColumn("Last event (UTC)", format="YYYY-MM-DD HH:mm")
    st.dataframe(
        lines, hide_index=True, placeholder="",
        alt="Progress, speed, side bias, consistency and gold pairs of each reviewer",
        column_config={"Last event": time},
    )  # fmt: skip
    st.caption(
        "Shares have 95 % intervals. Whoever is wrong on gold pairs, or always on one side, may be excluded: their "
        "votes no longer count, and others get their pairs."
    )
    _exclude(campaign, {row.reviewer_id: names.get(row.reviewer_id, "?") for row in progress}, excluded)


def _line(name: str, row: ReviewerProgress, quality: ReviewerQuality | None, excluded: bool) -> dict[str, object]:
    line: dict[str, object] = {
        "Reviewer": name,
        "State": "excluded" if excluded else "counts",
        "Votes": row.votes,
        "Skips": row.skips,
        "On units of several": row.overlap,
        "On gold pairs": row.gold,
        "Last event": row.last_at,
    }
    if quality is None:
        return line
    left = quality.left
    return line | {
        "Seconds per vote (median)": round(quality.seconds, 1),
        "Side bias": ("left" if left.hits * 2 > left.n else "right") if is_biased(left) else "none",
        "Chose left": share_text(left),
        "Consistent on repeats": share_text(quality.consistent),
        "Correct on gold pairs": share_text(quality.gold),
    }


def _exclude(campaign: Campaign, names: dict[str, str], excluded: dict[str, Exclusion]) -> None:
    for reviewer_id, exclusion in excluded.items():
        with st.container(horizontal=True, vertical_alignment="center"):
            name, at = names.get(reviewer_id, "?"), f"{exclusion.at:%Y-%m-%d}"
            st.text(f"{name} was excluded by {exclusion.by} on {at}: {exclusion.why}")
            if st.button("Include again", key=f"include-{reviewer_id}"):
                database().ratings.include_reviewer(campaign.id, reviewer_id)
                st.rerun()
    counting = [reviewer_id for reviewer_id in names if reviewer_id not in excluded]
    if not counting:
        return
    with st.popover("Exclude a reviewer"):
        st.text("Their votes stay recorded and do not count in this campaign.")
        reviewer_id = st.selectbox("Reviewer", counting, format_func=names.__getitem__, key="excluded")
        admin = votes.visitor().reviewer
        by = admin.name if admin else st.text_input("Who decides", key="excluded_by", max_chars=80)
        why = st.text_input("Reason", key="excluded_why", max_chars=500)
        if st.button("Exclude", key="exclude"):
            try:
                database().ratings.exclude_reviewer(campaign.id, reviewer_id, by, why, datetime.now(UTC))
            except NarutoError as error:
                st.error("Nothing was changed:")
                st.text(str(error))
                return
            st.rerun()
