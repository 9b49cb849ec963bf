"""The dashboard's front door: `streamlit run dashboard/app.py`. It routes to the views and looks after their errors."""

import streamlit as st

from dashboard.views import pictures, runs
from naruto_core.errors import NarutoError


def main() -> None:
    st.set_page_config(page_title="Naruto SDXL", layout="wide")
    page = st.navigation(
        [
            st.Page(runs.show, title="Runs", url_path="runs", default=True),
            st.Page(pictures.show, title="Pictures", url_path="pictures"),
        ]
    )
    try:
        page.run()
    except NarutoError as error:
        st.error("That did not work:")
        st.text(str(error))


if __name__ == "__main__":
    main()
