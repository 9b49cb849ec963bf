"""People and their personal links. A part of the page Campaigns."""

import streamlit as st

from dashboard import access
from dashboard.component import keep_link
from dashboard.queries.database import database
from naruto_core.ratings import Role


def show() -> None:
    """Everybody who is registered, a form for one more, and a new link for a lost one."""
    people = database().ratings.reviewers()
    if people:
        st.dataframe(
            [{"Name": person.name, "Role": person.role.value, "Single sign-on": person.email} for person in people],
            hide_index=True, alt="Everybody who is registered",
        )  # fmt: skip
    with st.form("person", clear_on_submit=True):
        left, middle, right = st.columns(3)
        name = left.text_input("Name", max_chars=80)
        is_first = not database().ratings.has_admin()
        roles = [Role.ADMIN] if is_first else [Role.REVIEWER, Role.ADMIN]
        role = middle.selectbox("Role", roles, format_func=lambda role: role.value)
        email = right.text_input("Address for single sign-on (optional)", max_chars=200)
        if st.form_submit_button("Add"):
            _, token = database().ratings.add_reviewer(name, role, email.strip())
            if is_first:  # from now on the dashboard needs a link: this session and this browser go on with theirs
                access.remember_link(token)
                keep_link(token)
            show_link(token)
    if people:
        with st.popover("Replace a lost link"):
            names = {person.id: person.name for person in people}
            reviewer_id = st.selectbox("Person", list(names), format_func=names.__getitem__)
            if st.button("Make a new link; the old link stops working"):
                show_link(database().ratings.renew_link(reviewer_id))


def show_link(token: str) -> None:
    """A personal link, to be sent."""
    st.success(
        "Send this personal link. It is shown only once; `naruto people link NAME` makes a new one. Whoever has it "
        "votes under this name."
    )
    st.code(link_of(token), language=None)


def link_of(token: str) -> str:
    """The address of a personal link."""
    address = (st.context.url or "").split("?")[0].rsplit("/", 1)[0]
    return f"{address}/enter/{token}"
