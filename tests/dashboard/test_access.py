"""Who is an admin of a dashboard that other machines reach, when its secrets or its database are missing or damaged."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, expect
from served import Served, free_port
from streamlit import config
from streamlit.testing.v1 import AppTest

from dashboard import access
from naruto_core.domain import Run
from naruto_core.errors import RecordDamaged
from naruto_core.ratings import Role
from naruto_core.store.database import Ratings
from tests.preloaded import Preloaded

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
START = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.7", None])
def test_beyond_this_machine_the_first_person_needs_the_link_of_the_log(
    address: str | None, home: Path, run: Run, link: Callable[[str], None]
) -> None:
    config.set_option("server.address", address)
    first_token = access.first_admin_token(home)
    for token, title in (("", "Welcome"), ("guessed", "Welcome"), ("ä", "Welcome"), (first_token, "Overview")):
        link(token)
        app = AppTest.from_file(str(APP), default_timeout=60).run()
        assert [element.value for element in app.title] == [title]


def test_a_lost_or_emptied_database_makes_nobody_an_admin_beyond_this_machine(
    home: Path, ratings: Ratings, run: Run, link: Callable[[str], None]
) -> None:
    config.set_option("server.address", "0.0.0.0")
    _, token = ratings.add_reviewer("admin", Role.ADMIN)
    for path in home.glob("naruto.db*"):
        path.unlink()
    for text in ("", token):
        link(text)
        app = AppTest.from_file(str(APP), default_timeout=60).run()
        assert [title.value for title in app.title] == ["Welcome"]
        assert "this dashboard's log" in app.info[0].value


@pytest.mark.parametrize("damage", [b"", b"\0" * 32, b"short"])
def test_a_damaged_key_signs_nothing_and_lets_nobody_in(
    home: Path, ratings: Ratings, damage: bytes, link: Callable[[str], None]
) -> None:
    reviewer, _ = ratings.add_reviewer("Ann", Role.ADMIN)
    (home / "dashboard.key").write_bytes(damage)
    with pytest.raises(RecordDamaged, match=r"dashboard\.key is not the key that was written: remove it"):
        access.make_session_token(home, reviewer, START)
    with pytest.raises(RecordDamaged):
        access.read_session_token(home, ratings, f"{reviewer.id}.9999999999.{'0' * 64}", START)
    config.set_option("server.address", "0.0.0.0")
    app = AppTest.from_file(str(APP), default_timeout=60).run()
    assert not app.title
    (home / "dashboard.key").unlink()  # what the sentence says: a new one is made
    token = access.make_session_token(home, reviewer, START)
    assert access.read_session_token(home, ratings, token, START) == reviewer.id


@pytest.mark.parametrize(
    ("secret", "login", "email"),
    [
        ("0123456789abcdef", {"is_logged_in": True, "email": "a@x"}, "a@x"),
        ("", {"is_logged_in": True, "email": "a@x"}, ""),
        ("xxx", {"is_logged_in": True, "email": "a@x"}, ""),
        ("0123456789abcdef", {"is_logged_in": True, "email": "a@x", "email_verified": False}, ""),
        ("0123456789abcdef", {"is_logged_in": True, "email": "a@x", "email_verified": "false"}, ""),
        ("0123456789abcdef", {"is_logged_in": False, "email": "a@x"}, ""),
    ],
)
def test_a_login_counts_only_where_it_is_signed_and_its_address_verified(
    secret: str, login: dict[str, object], email: str
) -> None:
    assert access.verified_email(login, {"auth": {"cookie_secret": secret}}) == email


def test_the_server_writes_the_first_persons_link_into_its_log_and_a_damaged_key_is_an_error(
    programs: Preloaded, home: Path
) -> None:
    server = Served(programs, home, free_port(), "0.0.0.0")
    server.start()
    try:
        assert f"/enter/{access.first_admin_token(home)}" in (home / "dashboard.log").read_text()
        (home / "dashboard.key").write_bytes(b"")
        response = httpx2.get(
            f"{server.address}/judging/c/next", headers={"Authorization": f"Bearer r1.9999999999.{'0' * 64}"}
        )
        assert (response.status_code, "remove it" in response.json()["error"]) == (500, True)
    finally:
        server.stop()


def test_the_first_admin_stays_in_and_the_shared_address_of_runs_opens(
    chrome: Browser, served: Served, run: Run
) -> None:
    page = chrome.new_page()
    page.goto(f"{served.address}/campaigns")
    page.get_by_label("Name", exact=True).fill("Ann")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("/enter/")).to_be_visible(timeout=30_000)
    page.get_by_role("link", name="Compare").click()
    expect(page.get_by_role("heading", name="Compare")).to_be_visible(timeout=15_000)
    page.goto(f"{served.address}/runs")
    expect(page.get_by_text("You are Ann.")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("heading", name="Runs")).to_be_visible(timeout=15_000)
    assert page.get_by_role("dialog").count() == 0
