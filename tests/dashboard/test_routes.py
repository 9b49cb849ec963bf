"""Pictures and votes over HTTP, against the real server."""

import io
import socket
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from threading import Event

import httpx2
import pytest
from PIL import Image
from served import Served
from starlette.applications import Starlette
from starlette.testclient import TestClient

from dashboard import access, routes
from dashboard.queries.database import database_of
from dashboard.routes import ROUTES
from naruto_core.artifacts import Layout
from naruto_core.domain import Run
from naruto_core.ratings import Campaign, Mode, Reviewer, Role, Unit
from naruto_core.settings import Settings, read_settings
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store

NOW = datetime.now(UTC)


def open_campaign(ratings: Ratings, count: int, raters: int = 1) -> str:
    units = [
        Unit(f"p{i % 5}", "a ninja", i, (f"a{i}", f"b{i}"), ("one/base", "two/base"), raters) for i in range(count)
    ]
    campaign = Campaign("", "routes", "Which is better?", Mode.PAIR, NOW, repeats=0.0)
    return ratings.open_campaign(campaign, units, 1).id


def add_reviewers(ratings: Ratings, count: int) -> list[Reviewer]:
    ratings.add_reviewer("admin", Role.ADMIN)
    return [ratings.add_reviewer(f"r{i}", Role.REVIEWER)[0] for i in range(count)]


class Client:
    """The browser of a reviewer."""

    def __init__(self, served: Served, reviewer: Reviewer, now: datetime = NOW) -> None:
        headers = {"Authorization": f"Bearer {access.make_session_token(served.home, reviewer, now)}"}
        self.http = httpx2.Client(base_url=served.address, headers=headers, timeout=60)

    def next(self, campaign_id: str, **params: str | list[str]) -> httpx2.Response:
        return self.http.get(f"/judging/{campaign_id}/next", params=params)

    def vote(self, assignment: object, **other: object) -> httpx2.Response:
        event = {
            "assignment": assignment, "act": "vote", "nonce": uuid.uuid4().hex, "seconds": 1.5, "viewport": "390x844",
            "answer": "left",
        }  # fmt: skip
        return self.http.post("/judging/deeds", json=event | other)


@pytest.fixture
def session(served: Served, ratings: Ratings) -> tuple[str, Client]:
    """A campaign's id and the client of its only reviewer."""
    campaign_id = open_campaign(ratings, 30)
    return campaign_id, Client(served, add_reviewers(ratings, 1)[0])


def test_a_personal_link_becomes_a_cookie_that_scripts_cannot_read_and_leaves_the_address(served: Served) -> None:
    response = httpx2.get(f"{served.address}/enter/secret-token")
    assert response.status_code == 303
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "secret-token" not in response.headers["location"]


def test_without_a_valid_session_token_every_request_is_refused(served: Served, ratings: Ratings, home: Path) -> None:
    campaign_id, (reviewer,) = open_campaign(ratings, 3), add_reviewers(ratings, 1)
    assert Client(served, reviewer, NOW - timedelta(hours=13)).next(campaign_id).status_code == 401
    token = access.make_session_token(home, reviewer, NOW)
    other_reviewer, other_key = token.replace(reviewer.id, "0" * 16), f"{reviewer.id}.9999999999.{'0' * 64}"
    for forged in ("x", "ä.1.2", token + "0", other_reviewer, other_key):
        response = httpx2.get(
            f"{served.address}/judging/{campaign_id}/next", headers={"Authorization": b"Bearer " + forged.encode()}
        )
        assert response.status_code == 401, forged
        assert response.json()["error"]
    assert (home / "dashboard.key").stat().st_mode & 0o077 == 0


def test_a_session_ends_when_the_personal_link_is_renewed(served: Served, ratings: Ratings) -> None:
    campaign_id, (reviewer, other) = open_campaign(ratings, 3), add_reviewers(ratings, 2)
    before, of_other = Client(served, reviewer), Client(served, other)
    assignment = before.next(campaign_id).json()["assignment"]["id"]
    ratings.renew_link(reviewer.id)
    refused = before.vote(assignment)
    assert (refused.status_code, refused.json()["error"]) == (
        401, "your session has ended: open your personal link again.",
    )  # fmt: skip
    renewed = ratings.find_reviewer(reviewer_id=reviewer.id)
    assert renewed
    assert Client(served, renewed).vote(assignment).json() == {"new": True}
    assert of_other.next(campaign_id).status_code == 200


def test_the_body_of_an_answer_does_not_wait_for_the_header_to_be_acknowledged(
    session: tuple[str, Client], served: Served
) -> None:
    campaign_id, client = session
    head = (
        f"GET /judging/{campaign_id}/last HTTP/1.1\r\nHost: x\r\nAuthorization: {client.http.headers['Authorization']}"
    )
    waits = list[float]()
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        for _ in range(12):
            connection.sendall(f"{head}\r\n\r\n".encode())
            reply = connection.recv(4096)
            begun = time.perf_counter()
            while not reply.endswith(b"}"):
                more = connection.recv(4096)
                assert more, reply
                reply += more
            waits.append(time.perf_counter() - begun)
    assert min(waits[6:]) < 0.03  # 0.04 s with Nagle's algorithm; the system acknowledges the first packets at once


def test_a_request_looks_up_settings_and_database_once(
    ratings: Ratings, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign_id, (reviewer,) = open_campaign(ratings, 3), add_reviewers(ratings, 1)
    read, opened = list[Settings](), list[Settings]()
    monkeypatch.setattr(routes, "read_settings", lambda: read.append(read_settings()) or read[-1])
    monkeypatch.setattr(routes, "database_of", lambda settings: opened.append(settings) or database_of(settings))
    monkeypatch.setattr("dashboard.queries.database.read_settings", None)
    headers = {"Authorization": f"Bearer {access.make_session_token(home, reviewer, NOW)}"}
    reply = TestClient(Starlette(routes=ROUTES)).get(f"/judging/{campaign_id}/next", headers=headers)
    assert reply.json()["assignment"]["text"] == "a ninja"
    assert opened == read
    assert len(read) == 1


def test_votes_that_wait_for_the_disk_do_not_hold_up_the_next_pictures(
    ratings: Ratings, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign_id, (reviewer,) = open_campaign(ratings, 3), add_reviewers(ratings, 1)
    headers = {"Authorization": f"Bearer {access.make_session_token(home, reviewer, NOW)}"}
    written = Event()
    monkeypatch.setattr(routes, "_record", lambda *_: {"new": written.wait(60)})
    event = {"assignment": "a", "act": "vote", "nonce": "n", "seconds": 1, "viewport": "", "answer": "left"}
    with TestClient(Starlette(routes=ROUTES), headers=headers) as http, ThreadPoolExecutor(9) as people:
        votes = [people.submit(http.post, "/judging/deeds", json=event) for _ in range(8)]
        following = people.submit(http.get, f"/judging/{campaign_id}/next")
        try:
            assert following.result(30).json()["assignment"]
            assert not any(vote.done() for vote in votes)
        finally:
            written.set()
        assert [vote.result(30).json() for vote in votes] == [{"new": True}] * 8


def test_an_assignment_does_not_name_a_model(session: tuple[str, Client]) -> None:
    campaign_id, client = session
    response = client.next(campaign_id)
    assert response.status_code == 200
    assert set(response.json()["assignment"]) == {"id", "text", "pictures"}
    assert response.json()["assignment"]["pictures"] == ["", ""]  # these samples have no pictures; else only hashes
    assert not any(word in response.text for word in ("one/", "two/", "base", "seed", "sample"))


def test_a_vote_that_is_sent_twice_counts_once_and_a_second_vote_is_refused(
    session: tuple[str, Client], ratings: Ratings
) -> None:
    campaign_id, client = session
    assignment = client.next(campaign_id).json()["assignment"]["id"]
    assert client.vote(assignment, nonce="n1").json() == {"new": True}
    assert client.vote(assignment, nonce="n1").json() == {"new": False}
    refused = client.vote(assignment, nonce="n2")
    assert (refused.status_code, refused.json()["error"]) == (409, "these pictures were answered already.")
    assert len(ratings.ratings(campaign_id)) == 1


def test_the_next_assignment_can_be_loaded_while_others_are_shown_or_answered_and_all_votes_count(
    session: tuple[str, Client], ratings: Ratings
) -> None:
    campaign_id, client = session
    first = client.next(campaign_id).json()["assignment"]["id"]
    second = client.next(campaign_id, besides=first).json()["assignment"]["id"]
    third = client.next(campaign_id, besides=[second, first]).json()["assignment"]["id"]
    assert len({first, second, third}) == 3
    assert client.next(campaign_id, besides=[first, third]).json()["assignment"]["id"] == second
    assert client.next(campaign_id).json()["assignment"]["id"] in (first, second, third)
    assert client.vote(second).json() == client.vote(first).json() == client.vote(third).json() == {"new": True}
    assert len(ratings.ratings(campaign_id)) == 3


def test_a_vote_survives_a_restart_of_the_server(session: tuple[str, Client], ratings: Ratings, served: Served) -> None:
    campaign_id, client = session
    assignment = client.next(campaign_id).json()["assignment"]["id"]
    served.stop()
    with pytest.raises(httpx2.TransportError):
        client.vote(assignment, nonce="n1")
    served.start()
    assert client.vote(assignment, nonce="n1").json() == {"new": True}
    served.stop()
    served.start()
    assert client.vote(assignment, nonce="n1").json() == {"new": False}
    assert len(ratings.ratings(campaign_id)) == 1


INVALID_EVENTS: tuple[dict[str, object], ...] = (
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


def test_an_invalid_event_is_refused_and_does_not_count(session: tuple[str, Client], ratings: Ratings) -> None:
    campaign_id, client = session
    assignment = client.next(campaign_id).json()["assignment"]["id"]
    for wrong in INVALID_EVENTS:
        refused = client.vote(**({"assignment": assignment} | wrong))
        assert refused.status_code in (409, 422), wrong
        assert refused.json()["error"]
    assert not ratings.ratings(campaign_id)
    assert client.vote(assignment).json() == {"new": True}


def test_an_event_of_a_megabyte_and_an_unknown_campaign_are_refused(session: tuple[str, Client]) -> None:
    campaign_id, client = session
    assert client.http.post("/judging/deeds", content=b"x" * 1_000_000).status_code == 413
    assert client.next("nothing").status_code == 404
    assert client.next(f"{campaign_id}%00").status_code in (400, 404)


def test_nobody_can_vote_for_somebody_else(served: Served, ratings: Ratings) -> None:
    campaign_id, (own, other) = open_campaign(ratings, 5), add_reviewers(ratings, 2)
    assignment = Client(served, own).next(campaign_id).json()["assignment"]["id"]
    assert Client(served, other).vote(assignment).status_code == 409
    assert not ratings.ratings(campaign_id)


def test_a_picture_is_served_by_its_sha256_as_webp_without_metadata(
    served: Served, store: Store, run: Run, home: Path
) -> None:
    sample = store.samples(run.id)[0]
    for size in ("256", "512", "full"):
        response = httpx2.get(f"{served.address}/pictures/{sample.sha256}/{size}.webp")
        assert response.status_code == 200
        assert response.headers["content-type"] == "image/webp"
        picture = Image.open(io.BytesIO(response.content))
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
        response = httpx2.get(served.address + path)
        assert response.headers.get("content-type") != "image/webp", path
        assert b"SQLite" not in response.content


def test_a_picture_that_was_changed_is_not_served(served: Served, store: Store, run: Run, home: Path) -> None:
    sample = store.samples(run.id)[0]
    Layout(home).absolute(sample.path).write_bytes(b"something else")
    assert httpx2.get(f"{served.address}/pictures/{sample.sha256}/512.webp").status_code == 404


def test_many_reviewers_at_once_lose_no_vote_count_none_twice_and_see_no_unit_twice(
    served: Served, ratings: Ratings
) -> None:
    # 140, not 125: before the last vote more than 10 units are open, so one of them is new to every reviewer
    votes_each, campaign_id, reviewers = 10, open_campaign(ratings, 140, raters=2), add_reviewers(ratings, 25)

    def vote_all(reviewer: Reviewer) -> list[int]:
        client, statuses = Client(served, reviewer), []
        for number in range(votes_each):
            assignment = client.next(campaign_id).json()["assignment"]["id"]
            nonce = f"{reviewer.id}-{number}"
            statuses += [client.vote(assignment, nonce=nonce).status_code for _ in range(1 + number % 2)]
        return statuses

    with ThreadPoolExecutor(25) as pool:
        statuses = [status for of_reviewer in pool.map(vote_all, reviewers) for status in of_reviewer]
    assert set(statuses) == {200}
    votes = ratings.ratings(campaign_id)
    assert len(votes) == votes_each * len(reviewers)
    assert len({(vote.reviewer_id, vote.unit_id) for vote in votes}) == len(votes)
    assert max(Counter(vote.unit_id for vote in votes).values()) <= 2


def test_a_vote_is_stored_and_the_next_pair_is_there_within_150_ms(
    ratings: Ratings, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARUTO_HOME", str(home))
    monkeypatch.delenv("NARUTO_DATABASE", raising=False)
    campaign_id, (reviewer,) = open_campaign(ratings, 600, raters=3), add_reviewers(ratings, 1)
    token = access.make_session_token(home, reviewer, NOW)
    taken: list[float] = []
    with TestClient(Starlette(routes=ROUTES), headers={"Authorization": f"Bearer {token}"}) as http:
        shown = http.get(f"/judging/{campaign_id}/next").json()["assignment"]["id"]
        for _ in range(12):
            event = {"assignment": shown, "act": "vote", "nonce": uuid.uuid4().hex, "seconds": 1, "viewport": ""}
            began = time.process_time()  # of all threads of this process: other programs do not count
            assert http.post("/judging/deeds", json=event | {"answer": "left"}).json() == {"new": True}
            shown = http.get(f"/judging/{campaign_id}/next").json()["assignment"]["id"]
            taken.append(time.process_time() - began)
    assert len(ratings.ratings(campaign_id)) == 12
    assert median(taken) < 0.15


def test_a_picture_that_cannot_be_prepared_is_refused_without_a_traceback_or_a_path(
    store: Store, run: Run, home: Path
) -> None:
    sample = store.samples(run.id)[0]
    (home / "cache").write_text("a file, where the folder of thumbnails would be")
    with TestClient(Starlette(routes=ROUTES)) as client:
        response = client.get(f"/pictures/{sample.sha256}/256.webp")
    assert (response.status_code, str(home) in response.text) == (503, False)
