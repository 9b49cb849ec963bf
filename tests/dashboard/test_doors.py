"""Pictures and votes over HTTP, against the real server: what each door lets in, and what it never does."""

import io
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from served import Served

from dashboard import access
from naruto_core.artifacts import Layout
from naruto_core.domain import Run
from naruto_core.ratings import Campaign, Mode, Reviewer, Role, Unit
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store

NOW = datetime.now(UTC)


def campaign(ratings: Ratings, count: int, wanted: int = 1, samples: tuple[str, str] | None = None) -> str:
    units = [
        Unit(f"p{i % 5}", "a ninja", i, samples or (f"a{i}", f"b{i}"), ("one/base", "two/base"), wanted)
        for i in range(count)
    ]
    wish = Campaign("", "doors", "Which is better?", Mode.PAIR, NOW, repeats=0.0)
    return ratings.open_campaign(wish, units, 1).id


def people(ratings: Ratings, count: int) -> list[Reviewer]:
    ratings.add_reviewer("lead", Role.LEAD)
    return [ratings.add_reviewer(f"r{i}", Role.REVIEWER)[0] for i in range(count)]


class Client:
    """One reviewer's browser."""

    def __init__(self, served: Served, who: Reviewer, now: datetime = NOW) -> None:
        headers = {"Authorization": f"Bearer {access.make_session_token(served.home, who, now)}"}
        self.http = httpx2.Client(base_url=served.address, headers=headers, timeout=60)

    def next(self, campaign_id: str, **params: str) -> httpx2.Response:
        return self.http.get(f"/judging/{campaign_id}/next", params=params)

    def vote(self, assignment: object, **other: object) -> httpx2.Response:
        deed = {
            "assignment": assignment, "act": "vote", "nonce": uuid.uuid4().hex, "seconds": 1.5, "viewport": "390x844",
            "answer": "left",
        }  # fmt: skip
        return self.http.post("/judging/deeds", json=deed | other)


@pytest.fixture
def one(served: Served, ratings: Ratings) -> tuple[str, Client]:
    campaign_id = campaign(ratings, 30)
    return campaign_id, Client(served, people(ratings, 1)[0])


def test_a_personal_link_becomes_a_cookie_that_scripts_cannot_read_and_leaves_the_address(served: Served) -> None:
    answer = httpx2.get(f"{served.address}/enter/secret-token")
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "secret-token" not in answer.headers["location"]


def test_without_a_valid_pass_nothing_is_given_and_nothing_counts(served: Served, ratings: Ratings, home: Path) -> None:
    campaign_id, (who,) = campaign(ratings, 3), people(ratings, 1)
    assert Client(served, who, NOW - timedelta(hours=13)).next(campaign_id).status_code == 401
    mine = access.make_session_token(home, who, NOW)
    for forged in ("x", "ä.1.2", mine + "0", mine.replace(who.id, "0" * 16), f"{who.id}.9999999999.{'0' * 64}"):
        answer = httpx2.get(
            f"{served.address}/judging/{campaign_id}/next", headers={"Authorization": b"Bearer " + forged.encode()}
        )
        assert answer.status_code == 401, forged
        assert answer.json()["error"]
    assert (home / "dashboard.key").stat().st_mode & 0o077 == 0


def test_an_assignment_says_nothing_that_names_a_model(one: tuple[str, Client]) -> None:
    campaign_id, client = one
    answer = client.next(campaign_id)
    assert answer.status_code == 200
    assert set(answer.json()["assignment"]) == {"id", "text", "pictures"}
    assert answer.json()["assignment"]["pictures"] == ["", ""]  # these samples have no pictures; else only hashes
    assert not any(word in answer.text for word in ("one/", "two/", "base", "seed", "sample"))


def test_a_vote_sent_twice_counts_once_and_a_second_one_on_the_same_is_refused(
    one: tuple[str, Client], ratings: Ratings
) -> None:
    campaign_id, client = one
    given = client.next(campaign_id).json()["assignment"]["id"]
    assert client.vote(given, nonce="n1").json() == {"new": True}
    assert client.vote(given, nonce="n1").json() == {"new": False}
    refused = client.vote(given, nonce="n2")
    assert (refused.status_code, refused.json()["error"]) == (409, "this one was answered already.")
    assert len(ratings.ratings(campaign_id)) == 1


def test_the_next_one_can_be_loaded_while_one_is_shown_and_both_count(
    one: tuple[str, Client], ratings: Ratings
) -> None:
    campaign_id, client = one
    first = client.next(campaign_id).json()["assignment"]["id"]
    second = client.next(campaign_id, besides=first).json()["assignment"]["id"]
    assert first != second
    assert client.next(campaign_id).json()["assignment"]["id"] in (first, second)
    assert client.vote(second).json() == client.vote(first).json() == {"new": True}
    assert len(ratings.ratings(campaign_id)) == 2


def test_a_vote_outlives_a_restart_of_the_server(one: tuple[str, Client], ratings: Ratings, served: Served) -> None:
    campaign_id, client = one
    given = client.next(campaign_id).json()["assignment"]["id"]
    served.stop()
    with pytest.raises(httpx2.TransportError):
        client.vote(given, nonce="n1")
    served.start()
    assert client.vote(given, nonce="n1").json() == {"new": True}
    served.stop()
    served.start()
    assert client.vote(given, nonce="n1").json() == {"new": False}
    assert len(ratings.ratings(campaign_id)) == 1


WRONG_DEEDS: tuple[dict[str, object], ...] = (
    {"act": "promote"},
    {"answer": "middle"},
    {"answer": {"best": 0, "worst": 1}},
    {"answer": None},
    {"act": "skip"},
    {"seconds": -1},
    {"seconds": "NaN"},
    {"viewport": "<script>"},
    {"nonce": ""},
    {"nonce": "n" * 65},
    {"assignment": "x"},
    {"run": "r1"},
)


def test_a_wrong_deed_gets_one_sentence_and_counts_nothing(one: tuple[str, Client], ratings: Ratings) -> None:
    campaign_id, client = one
    given = client.next(campaign_id).json()["assignment"]["id"]
    for wrong in WRONG_DEEDS:
        refused = client.vote(**({"assignment": given} | wrong))
        assert refused.status_code in (409, 422), wrong
        assert refused.json()["error"]
    assert not ratings.ratings(campaign_id)
    assert client.vote(given).json() == {"new": True}


def test_a_deed_of_a_megabyte_and_a_campaign_that_is_not_there_are_refused(one: tuple[str, Client]) -> None:
    campaign_id, client = one
    assert client.http.post("/judging/deeds", content=b"x" * 1_000_000).status_code == 413
    assert client.next("nothing").status_code == 404
    assert client.next(f"{campaign_id}%00").status_code in (400, 404)


def test_nobody_can_vote_for_somebody_else(served: Served, ratings: Ratings) -> None:
    campaign_id, (mine, theirs) = campaign(ratings, 5), people(ratings, 2)
    given = Client(served, mine).next(campaign_id).json()["assignment"]["id"]
    assert Client(served, theirs).vote(given).status_code == 409
    assert not ratings.ratings(campaign_id)


def test_a_picture_is_served_by_its_content_alone_as_webp_without_what_was_written_in_its_file(
    served: Served, store: Store, run: Run, home: Path
) -> None:
    sample = store.samples(run.id)[0]
    for size in ("256", "512", "full"):
        answer = httpx2.get(f"{served.address}/pictures/{sample.sha256}/{size}.webp")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/webp"
        picture = Image.open(io.BytesIO(answer.content))
        assert picture.format == "WEBP"
        assert not picture.info.get("exif")
    original = Image.open(Layout(home).absolute(sample.path)).convert("RGB")
    assert picture.convert("RGB").tobytes() == original.tobytes()


def test_no_address_reaches_a_file_that_is_not_a_recorded_picture(served: Served, run: Run) -> None:
    nothing = "0" * 64
    for path in (
        "/pictures/../naruto.db/512.webp",
        "/pictures/%2e%2e%2fnaruto.db/512.webp",
        f"/pictures/{nothing}/512.webp",
        f"/pictures/{nothing}/9999.webp",
        f"/pictures/{'A' * 64}/512.webp",
        f"/pictures/{nothing[:-1]}%00/512.webp",
    ):
        answer = httpx2.get(served.address + path)
        assert answer.headers.get("content-type") != "image/webp", path
        assert b"SQLite" not in answer.content


def test_a_picture_that_was_changed_is_not_shown(served: Served, store: Store, run: Run, home: Path) -> None:
    sample = store.samples(run.id)[0]
    Layout(home).absolute(sample.path).write_bytes(b"something else")
    assert httpx2.get(f"{served.address}/pictures/{sample.sha256}/512.webp").status_code == 404


def test_many_reviewers_at_once_lose_no_vote_double_none_and_see_no_unit_twice(
    served: Served, ratings: Ratings
) -> None:
    # 140, not 125: with the last vote outstanding, more than 10 units are open, so one of them is new to whoever asks.
    votes_each, campaign_id, everybody = 10, campaign(ratings, 140, wanted=2), people(ratings, 25)

    def judge(who: Reviewer) -> list[int]:
        client, statuses = Client(served, who), []
        for number in range(votes_each):
            given = client.next(campaign_id).json()["assignment"]["id"]
            nonce = f"{who.id}-{number}"
            statuses += [client.vote(given, nonce=nonce).status_code for _ in range(1 + number % 2)]
        return statuses

    with ThreadPoolExecutor(25) as pool:
        statuses = [status for found in pool.map(judge, everybody) for status in found]
    assert set(statuses) == {200}
    found = ratings.ratings(campaign_id)
    assert len(found) == votes_each * len(everybody)
    assert len({(rating.reviewer_id, rating.unit_id) for rating in found}) == len(found)
    given = [sum(rating.unit_id == unit for rating in found) for unit in {rating.unit_id for rating in found}]
    assert max(given) <= 2
