"""The pages, and who may open them: reviewers see the page Review, admins see all pages. `server.py` serves it."""

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard.access import Visitor
from dashboard.queries import votes
from dashboard.queries.database import database
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
        st.error("Error:")
        st.text(str(error))


def _pages(visitor: Visitor) -> dict[str, list[StreamlitPage]]:
    review_page = st.Page(review.show, title="Review", url_path="review", default=not visitor.is_admin)
    if not visitor.is_admin:
        return {"": [review_page if visitor.reviewer else st.Page(_welcome, title="Welcome", url_path="welcome")]}
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
            review_page,
            st.Page(campaigns.show, title="Campaigns", url_path="campaigns"),
            st.Page(verdicts.show, title="Verdicts", url_path="verdicts"),
            st.Page(metric_validation.show, title="Metric validation", url_path="metric-validation"),
        ],
    }


def _welcome() -> None:
    st.title("Welcome")
    if database().ratings.reviewers():
        st.info("You need a personal link to open this dashboard. Open the link that you were sent, or ask an admin.")
    else:
        st.info("Nobody is registered yet. The link for the first person is at the start of this dashboard's log.")
    if "auth" in st.secrets and st.button("Sign in"):
        st.login()


if __name__ == "__main__":
    main()
