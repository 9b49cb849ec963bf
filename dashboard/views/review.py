"""The page Review: reviewers rate pictures blind. The browser's part is `components/review.js`.

Neither this page nor the addresses of its pictures contain a run, a variant, a score or a file name.
"""

import base64
from datetime import UTC, datetime

import streamlit as st

from dashboard import access
from dashboard.component import component
from dashboard.queries import datasets, votes
from dashboard.queries.database import database
from naruto_core.ratings import Campaign, Mode, Reviewer
from naruto_core.settings import read_settings

_COMPONENT = component("review")
# the pictures and the buttons need the height: the title stays for screen readers, the header and the gaps get small
_STYLE = """<style>
[data-testid="stHeader"] { height: 2.25rem; min-height: 0; }
[data-testid="stMainBlockContainer"] { padding: 2.25rem 1rem .25rem; }
[data-testid="stMainBlockContainer"] > [data-testid="stVerticalBlock"] { gap: .25rem; }
[data-testid="stMainBlockContainer"] h1 {
  position: absolute; width: 1px; height: 1px; padding: 0; overflow: hidden; clip-path: inset(50%);
}
</style>"""

_ANCHORS = {
    "adherence": {
        "ask": "Does the picture show what the text asks for?",
        "words": ["not at all", "a little", "half", "mostly", "fully"],
    },
    "style": {
        "ask": "Is it drawn in the style of the examples?",
        "words": ["not at all", "a little", "partly", "mostly", "fully"],
    },
}
_GUIDELINES = {
    Mode.PAIR: (
        "Which of the two pictures would you rather get for this text?",
        "First check the text: everything in it should be in the picture, and nothing that contradicts it.",
        "Then check the drawing: complete hands and faces, clean lines, one style.",
        "Example: the text asks for two. A pretty picture shows one, a plain picture two: the plain one is better.",
        "Example: both show what the text asks for, and one has a deformed hand. The other picture is better.",
        "If you cannot choose within ten seconds, they are equally good. If you would use neither, both are bad.",
        "You do not see which model drew which picture. The sides are random each time.",
    ),
    Mode.SCALE: (
        "Rate one picture: first whether it shows what the text asks for, then whether it has the style.",
        "Example: it shows everything that the text asks for, but as a photograph: 5 for the text, 1 for the style.",
        "Mark defects even when you like the picture.",
    ),
    Mode.BEST_WORST: (
        "Choose the best of the four pictures, then the worst. The other two have no order.",
        "First check what the text asks for, then how it is drawn.",
        "Example: three are good and one shows something else: that is the worst; the best drawn one is the best.",
    ),
}


def show() -> None:
    st.title("Review")
    reviewer = votes.visitor().reviewer
    if reviewer is None:
        st.info(
            "You are not registered, and votes need a name. Open the page Campaigns, add yourself as an admin, and "
            "open the link that you get."
        )
        return
    campaigns = votes.campaigns(open_only=True)
    if not campaigns:
        st.info("There is nothing to rate now. An admin opens a campaign on the page Campaigns.")
        return
    st.html(_STYLE)
    below = st.container()  # what stands below the pictures is chosen first
    in_sight = below.container()
    with below:
        campaign = _select_campaign(campaigns)
    with in_sight:
        _review(campaign, reviewer)
    progress = database().ratings.progress(campaign.id)
    votes_text = f"{progress.votes} of {progress.votes_needed} votes by all reviewers when this page was opened"
    st.progress(progress.share, text=votes_text)
    if campaign.example:
        st.warning("This is an example: a program made the other votes up.")


def _select_campaign(campaigns: list[Campaign]) -> Campaign:
    if len(campaigns) == 1:
        return campaigns[0]
    by_id = {campaign.id: campaign for campaign in campaigns}
    chosen = st.selectbox("Campaign", list(by_id), format_func=lambda key: by_id[key].name, key="review_campaign")
    return by_id[chosen]


def _review(campaign: Campaign, reviewer: Reviewer) -> None:
    _COMPONENT(
        key=f"review-{campaign.id}",
        data={
            "campaign": campaign.id,
            "mode": campaign.mode.value,
            "reviewer": reviewer.id,
            "token": access.make_session_token(read_settings().root, reviewer, datetime.now(UTC)),
            "question": campaign.question,
            "anchors": _ANCHORS,
            "references": _references(campaign),
            "guidelines": list(_GUIDELINES[campaign.mode]),
        },
    )
    st.caption(
        "Every vote is saved immediately; you can stop at any time and continue later. To zoom, double-click a "
        "picture, pinch it or press +. All pictures zoom together."
    )


def _references(campaign: Campaign) -> list[dict[str, str]]:
    """Three training pictures as examples of the style, for campaigns of grades."""
    if campaign.mode is not Mode.SCALE:
        return []
    run_ids = [name.partition("/")[0] for name in database().ratings.models(campaign.id)]
    return [
        {"text": text, "picture": f"data:image/webp;base64,{base64.b64encode(data).decode()}"}
        for text, data in datasets.style_references(run_ids)
    ]
