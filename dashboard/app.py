"""The pages, and who may open them: reviewers see the page Review, admins see all pages. `server.py` serves it.

Streamlit serves the default page at / only. It has a second, hidden page at its own name, because people share that
address. For those who may not open a page, its address shows what they may see instead.
"""

from collections.abc import Callable

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
    run,
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


Pages = dict[str, tuple[str, Callable[[], None]]]  # the title and the function of each page, by address

_MODELS: Pages = {
    "runs": ("Runs", runs.show),
    "run": ("Run", run.show),
    "compare": ("Compare", compare.show),
    "dataset": ("Dataset", dataset.show),
    "playground": ("Playground", playground.show),
    "promote": ("Promote", promote.show),
    "serving": ("Serving", serving.show),
    "pictures-of-a-run": ("Pictures", pictures.show),
}
_PEOPLE: Pages = {
    "review": ("Review", review.show),
    "campaigns": ("Campaigns", campaigns.show),
    "verdicts": ("Verdicts", verdicts.show),
    "metric-validation": ("Metric validation", metric_validation.show),
}


def _pages(visitor: Visitor) -> dict[str, list[StreamlitPage]]:
    addresses = (*_MODELS, *_PEOPLE)
    if visitor.reviewer and not visitor.is_admin:
        start = st.Page(review.show, title="Review", url_path="start", default=True)
        return {"": [start, *(_hidden(address, "Review", _review_instead) for address in addresses)]}
    if not visitor.is_admin:
        start = st.Page(_welcome, title="Welcome", url_path="start", default=True)
        return {"": [start, *(_hidden(address, "Welcome", _welcome) for address in addresses)]}
    start = st.Page(runs.show, title="Runs", url_path="start", default=True)
    models = [st.Page(show, title=title, url_path=address) for address, (title, show) in _MODELS.items()]
    people = [st.Page(show, title=title, url_path=address) for address, (title, show) in _PEOPLE.items()]
    return {"Models": [start, _hidden("runs", "Runs", runs.show), *models[1:]], "People": people}


def _hidden(address: str, title: str, show: Callable[[], None]) -> StreamlitPage:
    """A page without an entry in the navigation."""
    return st.Page(show, title=title, url_path=address, visibility="hidden")


def _review_instead() -> None:
    if (st.context.url or "").rstrip("/").rpartition("/")[2] != "review":
        st.info("That page is for admins. Here is what you can rate:")
    review.show()


def _welcome() -> None:
    st.title("Welcome")
    if database().ratings.has_admin():
        st.info("You need a personal link to open this dashboard. Open the link that you were sent, or ask an admin.")
    else:
        st.info("Nobody is registered yet. The link for the first person is at the start of this dashboard's log.")
    if "auth" in st.secrets and st.button("Sign in"):
        st.login()


if __name__ == "__main__":
    main()
