"""The pages, and who may open them: reviewers see the page Review, admins see all pages. `server.py` serves it.

Streamlit serves the default page at / only. It has a second, hidden page at its own name, because people share that
address. For those who may not open a page, its address shows what they may see instead.
"""

from collections.abc import Callable

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard.access import Visitor
from dashboard.component import page_style
from dashboard.navigation import remember_pages
from dashboard.queries import votes
from dashboard.queries.database import database
from dashboard.views import campaigns, compare, dataset, deploy, overview, pictures, review, run, runs, sweep
from naruto_core.errors import NarutoError


def main() -> None:
    st.set_page_config(page_title="Naruto SDXL", layout="wide")
    st.html(page_style())
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

_PAGES: Pages = {
    "overview": ("Overview", overview.show),
    "runs": ("Runs", runs.show),
    "run": ("Run", run.show),
    "sweep": ("Sweep", sweep.show),
    "compare": ("Compare", compare.show),
    "review": ("Review", review.show),
    "campaigns": ("Campaigns", campaigns.show),
    "deploy": ("Deploy", deploy.show),
}
# reached from other pages; the last five are addresses of earlier versions, which people have shared
_UNLISTED: Pages = {
    "dataset": ("Dataset", dataset.show),
    "pictures-of-a-run": ("Pictures", pictures.show),
    "verdicts": ("Campaigns", campaigns.show),
    "metric-validation": ("Campaigns", campaigns.show),
    "promote": ("Deploy", deploy.show),
    "serving": ("Deploy", deploy.show),
    "playground": ("Deploy", deploy.show),
}


def _pages(visitor: Visitor) -> list[StreamlitPage]:
    addresses = (*_PAGES, *_UNLISTED)
    if visitor.reviewer and not visitor.is_admin:
        start = st.Page(review.show, title="Review", url_path="start", default=True)
        return [start, *(_hidden(address, "Review", _review_instead) for address in addresses)]
    if not visitor.is_admin:
        start = st.Page(_welcome, title="Welcome", url_path="start", default=True)
        return [start, *(_hidden(address, "Welcome", _welcome) for address in addresses)]
    start = st.Page(overview.show, title="Overview", url_path="start", default=True)
    listed = {
        address: st.Page(show, title=title, url_path=address)
        for address, (title, show) in _PAGES.items()
        if address != "overview"
    }
    unlisted = {address: _hidden(address, title, show) for address, (title, show) in _UNLISTED.items()}
    remember_pages({"overview": start} | listed | unlisted)
    return [start, _hidden("overview", "Overview", overview.show), *listed.values(), *unlisted.values()]


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
    # without a secrets.toml, asking for a secret is an error
    if st.secrets.load_if_toml_exists() and "auth" in st.secrets and st.button("Sign in"):
        st.login()


if __name__ == "__main__":
    main()
