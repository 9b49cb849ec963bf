"""The pages, and who may see which: reviewers judge, everything else is the lead's. `server.py` serves it."""

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard.access import Visitor
from dashboard.queries import votes
from dashboard.queries.database import the_ratings
from dashboard.views import (
    campaigns,
    compare,
    dataset,
    metric_validation,
    pictures,
    playground,
    promote,
    review,
    runs,
    serving,
    verdicts,
)
from naruto_core.errors import NarutoError


def main() -> None:
    st.set_page_config(page_title="Naruto SDXL", layout="wide")
    try:
        visitor = votes.visitor()
        page = st.navigation(_pages(visitor))
        if visitor.reviewer is not None:
            st.sidebar.text(f"You are {visitor.reviewer.name}.")
        page.run()
    except NarutoError as error:
        st.error("That did not work:")
        st.text(str(error))


def _pages(visitor: Visitor) -> dict[str, list[StreamlitPage]]:
    judge = st.Page(review.show, title="Review", url_path="review", default=not visitor.lead)
    if not visitor.lead:
        return {"": [judge if visitor.reviewer else st.Page(_stranger, title="Welcome", url_path="welcome")]}
    return {
        "Models": [
            st.Page(runs.show, title="Runs", url_path="runs", default=True),
            st.Page(compare.show, title="Compare", url_path="compare"),
            st.Page(dataset.show, title="Dataset", url_path="dataset"),
            st.Page(playground.show, title="Playground", url_path="playground"),
            st.Page(promote.show, title="Promote", url_path="promote"),
            st.Page(serving.show, title="Serving", url_path="serving"),
            st.Page(pictures.show, title="Pictures", url_path="pictures-of-a-run"),
        ],
        "People": [
            judge,
            st.Page(campaigns.show, title="Assignments", url_path="assignments"),
            st.Page(verdicts.show, title="Verdicts", url_path="verdicts"),
            st.Page(metric_validation.show, title="Metric trust", url_path="metric-trust"),
        ],
    }


def _stranger() -> None:
    st.title("Welcome")
    if the_ratings().reviewers():
        st.info("This dashboard asks for a personal link. Open the one you were sent, or ask whoever runs it for one.")
    else:
        st.info("Nobody is registered here. The link for the first person stands at the start of this dashboard's log.")
    if "auth" in st.secrets and st.button("Sign on"):
        st.login()


if __name__ == "__main__":
    main()
