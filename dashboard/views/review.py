"""Blind judging: pictures of one prompt and seed, nothing else. What happens in the browser is `components/review.js`.

Neither this page nor the addresses of its pictures name a run, a variant, a score or a file.
"""

import base64
from datetime import UTC, datetime

import streamlit as st

from dashboard import access
from dashboard.component import component
from dashboard.queries import datasets, votes
from dashboard.queries.database import the_ratings
from naruto_core.ratings import Campaign, Mode, Reviewer
from naruto_core.settings import read_settings

_COMPONENT = component("review")

_ANCHORS = {
    "adherence": {
        "ask": "Does the picture show what the text asks for? (keys 1 to 5)",
        "words": ["nothing of it", "a little", "half of it", "nearly all", "all of it"],
    },
    "style": {
        "ask": "Is it drawn in the style of the examples? (keys 1 to 5)",
        "words": ["not at all", "hardly", "partly", "nearly", "fully"],
    },
}
_GUIDELINES = {
    Mode.PAIR: (
        "Which of the two pictures would you rather get for this text?",
        "Look at what the text asks for first: everything in it should be there, and nothing that contradicts it.",
        "Then look at how it is drawn: whole hands and faces, clean lines, one style.",
        "Example: the text asks for two people. A pretty picture shows one, a plain one shows two: take the plain one.",
        "Example: both show what was asked for, one has a melted hand. The other one is better.",
        "If you cannot choose in ten seconds, they are equally good. If you would throw both away, say both are bad.",
        "It is the same text, but you do not know who drew what. The sides are shuffled each time.",
    ),
    Mode.SCALE: (
        "Judge one picture by itself: first whether it shows what the text asks for, then whether it is in the style.",
        "Example: everything that was asked for is there, but as a photograph: 5 for the text, 1 for the style.",
        "Flag what is wrong even when you like the picture.",
    ),
    Mode.BEST_WORST: (
        "Choose the best of the four pictures, then the worst. The other two need no order.",
        "Look at what the text asks for first, then at how it is drawn.",
        "Example: three are fine and one shows something else: that one is the worst, the best is the best drawn one.",
    ),
}


def show() -> None:
    st.title("Review")
    reviewer = votes.visitor().reviewer
    if reviewer is None:
        st.info(
            "You are not registered as a reviewer. Open Assignments, add yourself as the lead, and open the link that "
            "you get: your votes are kept under your name."
        )
        return
    open_ones = votes.campaigns(opened=True)
    if not open_ones:
        st.info("There is nothing to judge now. The lead opens a campaign on the page Assignments.")
        return
    campaign = _chosen(open_ones)
    st.text(campaign.question)
    _judge(campaign, reviewer)
    with st.expander("How to judge, with examples"):
        for line in _GUIDELINES[campaign.mode]:
            st.text(line)
    standing = the_ratings().standing(campaign.id)
    share = min(1.0, standing.rated / standing.wanted) if standing.wanted else 1.0
    st.progress(share, text=f"{standing.rated} of {standing.wanted} votes by everybody when this page was opened")
    if campaign.example:
        st.warning("This is an example. Its other votes were made up by a program.")


def _chosen(open_ones: list[Campaign]) -> Campaign:
    if len(open_ones) == 1:
        return open_ones[0]
    names = {one.id: one.name for one in open_ones}
    chosen = st.selectbox("What to judge", list(names), format_func=names.__getitem__, key="review_campaign")
    return next(one for one in open_ones if one.id == chosen)


def _judge(campaign: Campaign, reviewer: Reviewer) -> None:
    _COMPONENT(
        key=f"review-{campaign.id}",
        data={
            "campaign": campaign.id,
            "mode": campaign.mode.value,
            "me": reviewer.id,
            "pass": access.make_session_token(read_settings().root, reviewer, datetime.now(UTC)),
            "size": "full",
            "anchors": _ANCHORS,
            "references": _references(campaign),
        },
    )
    st.caption(
        "Every vote is saved at once, and you can stop at any time: you go on where you were. Double-click a picture, "
        "pinch it or press + to look closer; all pictures move together."
    )


def _references(campaign: Campaign) -> list[dict[str, str]]:
    """Three pictures of the style that was to be learned, where grades are asked for."""
    if campaign.mode is not Mode.SCALE:
        return []
    run_ids = [name.partition("/")[0] for name in the_ratings().models(campaign.id)]
    return [
        {"text": text, "picture": f"data:image/webp;base64,{base64.b64encode(data).decode()}"}
        for text, data in datasets.style_references(run_ids)
    ]
