"""`naruto people` and `naruto votes`, on a real database."""

import json
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app, verify
from flows.listings import verify_all
from naruto_core.errors import NotRecorded
from naruto_core.ratings import Action, Campaign, Mode, Outcome, RatingEvent, Role, Unit
from naruto_core.settings import read_settings
from naruto_core.store.database import open_database

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def naruto(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def home(tmp_path: Path, new_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NARUTO_HOME with an empty database."""
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path))
    monkeypatch.delenv("NARUTO_DATABASE", raising=False)
    shutil.copyfile(new_database, tmp_path / "naruto.db")
    return tmp_path


def test_a_lost_link_is_made_again_and_votes_are_exported(home: Path) -> None:
    assert "nobody is registered" in naruto("people", "list")
    with open_database(read_settings().database_url) as database:
        ratings = database.ratings
        admin, _ = ratings.add_reviewer("Lea", Role.ADMIN, "lea@example.org")
        unit = Unit("p", "t", 7, ("a", "b"), ("one/base", "two/base"))
        campaign = ratings.open_campaign(Campaign("", "faces", "?", Mode.PAIR, NOON), [unit], 0)
        assignment = ratings.next_assignment(campaign.id, admin.id, NOON)
        assert assignment
        ratings.record(admin.id, RatingEvent(assignment.id, Action.VOTE, "n", 2.0, "", Outcome.TIE), NOON)
    assert json.loads(naruto("people", "list", "--json")) == [
        {"name": "Lea", "role": "admin", "email": "lea@example.org"}
    ]
    assert "lea@example.org" in naruto("people", "list")
    address, _, token = (
        naruto("people", "link", "Lea", "--address", "https://example.org/").strip().rpartition("/enter/")
    )
    assert address == "https://example.org"
    with open_database(read_settings().database_url) as database:
        assert database.ratings.reviewer_by_token(token) == admin
    with pytest.raises(NotRecorded, match="registered: Lea"):
        naruto("people", "link", "Eve")
    with pytest.raises(NotRecorded, match="campaigns: faces"):
        naruto("votes", "export", "other")
    output = home / "votes.csv"
    assert "wrote 1 vote to" in naruto("votes", "export", "faces", "--output", str(output))
    assert output.read_text() == naruto("votes", "export", "faces")
    assert admin.id in output.read_text()
    assert naruto("votes", "recount") == "every stored count is right.\n"
    with sqlite3.connect(home / "naruto.db") as connection:  # as another program would
        connection.execute("UPDATE campaigns SET open_units = 9")
    wrong = "faces: 9 open units are recorded, and there are 0"
    assert [row["what"] for row in verify_all().rows] == [f"database (campaign {wrong})"]
    assert naruto("votes", "recount") == f"{wrong}; counted again.\n"
    assert verify_all().rows == []
    assert "Lea" not in output.read_text()


def test_verify_says_what_an_unrecorded_file_is_and_that_it_may_be_deleted(home: Path) -> None:
    (home / "runs" / "2026-01-01-mini-0000").mkdir(parents=True)  # as a backup keeps a deleted run
    found = verify_all()
    assert [row["trouble"] for row in found.rows] == ["unrecorded"]
    assert "An unrecorded file belongs to no run of this database" in found.text
    assert CliRunner().invoke(app, ["verify"]).exit_code == 1
    assert "missing, altered or unrecorded" in (verify.__doc__ or "")
