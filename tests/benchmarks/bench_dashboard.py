"""`make bench-dashboard`: what 1,000 runs, 100,000 pictures and 1,000,000 votes cost a page and a vote.

Pages are run by Streamlit's own AppTest in this process; votes go over HTTP to a dashboard in its own process, from
50 people at once. The ratios are against the same on 10 runs and 5,000 votes.
"""

import json
import os
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import httpx2
import numpy as np
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from dashboard import access
from dashboard.server import import_pages
from naruto_core.ratings import Reviewer
from naruto_core.store.database import open_database
from tests.benchmarks.judged_store import fill
from tests.benchmarks.server_kills import round_with_kills
from tests.preloaded import fork_parent

sys.path.insert(0, str(Path(__file__).parents[1] / "dashboard"))
from served import Served, dashboards, free_port

# a view and the part of it that is open, "" for the first one
PAGES = (
    ("overview", ""),
    ("runs", ""),
    ("run", ""),
    ("run", "Images"),
    ("compare", ""),
    ("compare", "Verdicts"),
    ("review", ""),
    ("campaigns", "Results"),
    ("campaigns", "Reviewers"),
    ("campaigns", "Metric agreement"),
    ("campaigns", "New campaign"),
    ("deploy", ""),
    ("deploy", "Service"),
    ("dataset", ""),
)
TIMES, PEOPLE, VOTES, KILLS = 6, 50, 20, 20


def main() -> None:
    # a server looks through all installed packages for components once; AppTest at each look, in 0.2 to 0.6 s of CPU
    manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)
    fork_parent()  # before a database is open here: SQLite damages a file that a forked process opens again
    small, large = (measure(runs, votes) for runs, votes in ((10, 5_000), (1_000, 1_000_000)))
    figures = {key: {"small": small[key], "large": large[key]} for key in large}
    ratios = {key: round(large[key] / small[key], 2) for key in large if small[key] and key.endswith("ms")}
    print(json.dumps({"benchmark": "dashboard", "ratios": ratios, "figures": figures}))


def measure(runs: int, votes: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["NARUTO_HOME"] = folder
        begun = time.perf_counter()
        people = list(fill(root, runs, votes))
        import_pages()  # as the server does when it starts
        print(f"{runs} runs, {votes} votes written in {time.perf_counter() - begun:.0f} s", flush=True)
        found: dict[str, float] = {}
        for view, part in PAGES:
            name = f"{view} {part}".strip()
            found |= {f"{name} {kind}": value for kind, value in page_times(view, part).items()}
            print({key: value for key, value in found.items() if key.startswith(name)}, flush=True)
        found |= over_http(root, people)
        print({key: found[key] for key in found if key.startswith(("next", "vote", "lost"))}, flush=True)
        return found


def page_times(view: str, part: str) -> dict[str, float]:
    """The first look, with nothing kept, and the 95 % point of the following ones: by the clock and in CPU time, ms."""

    def run(name: str) -> None:
        from importlib import import_module

        from dashboard import access

        access.credentials = lambda: ("", "")
        import_module(f"dashboard.views.{name}").show()

    st.cache_data.clear()
    st.cache_resource.clear()
    taken, worked = [], []
    for _ in range(TIMES):
        app = AppTest.from_function(run, args=(view,), default_timeout=120)
        if part:
            app.session_state["part"] = part
        begun, cpu = time.perf_counter(), time.process_time()
        app.run()
        taken.append(1000 * (time.perf_counter() - begun))
        worked.append(1000 * (time.process_time() - cpu))
        if app.exception:
            raise RuntimeError(f"{view}: {app.exception[0].value}")
    return {
        "first ms": round(taken[0], 1),
        "p95 ms": round(float(np.percentile(taken[1:], 95)), 1),
        "first CPU ms": round(worked[0], 1),
        "p95 CPU ms": round(float(np.percentile(worked[1:], 95)), 1),
    }


def over_http(root: Path, people: list[str]) -> dict[str, float]:
    """50 people at once judge 20 pairs each of the newest campaign: next and vote, one after the other."""
    with dashboards() as programs, open_database(f"sqlite:///{root / 'naruto.db'}").ratings as ratings:
        campaign = ratings.campaigns()[0].id
        by_id = {reviewer.id: reviewer for reviewer in ratings.reviewers()}
        reviewers = [by_id[person] for person in people]
        before = ratings.progress(campaign).votes
        server = Served(programs, root, free_port())
        server.start()
        try:
            with ThreadPoolExecutor(PEOPLE) as pool:
                found = list(pool.map(lambda who: judge(server, campaign, who, VOTES), reviewers[:PEOPLE]))
            alone = judge(server, campaign, reviewers[0], 20)
            killed = round_with_kills(
                server, campaign, reviewers[0], kills=KILLS, votes_between=5, now=datetime.now(UTC)
            )
        finally:
            server.stop()
        votes = ratings.ratings(campaign)
        given = sum(len(one["vote"]) for one in [*found, alone]) + len(killed)
        once = len({(one.reviewer_id, one.unit_id, one.repeat) for one in votes})
        return {
            "next, one person p95 ms": round(float(np.percentile(alone["next"], 95)), 1),
            "vote, one person p95 ms": round(float(np.percentile(alone["vote"], 95)), 1),
            "next, 50 people p95 ms": round(float(np.percentile([t for one in found for t in one["next"]], 95)), 1),
            "vote, 50 people p95 ms": round(float(np.percentile([t for one in found for t in one["vote"]], 95)), 1),
            "votes given": given,
            "kills of the server": KILLS,
            "votes lost or doubled": abs(before + given - len(votes)) + len(votes) - once,
        }


def judge(server: Served, campaign: str, who: Reviewer, count: int) -> dict[str, list[float]]:
    """Votes of one person without a pause, as the page sends them: the next pair is asked for before the vote."""
    token = access.make_session_token(server.home, who, datetime.now(UTC))
    taken: dict[str, list[float]] = {"next": [], "vote": []}
    with httpx2.Client(base_url=server.address, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
        given = http.get(f"/judging/{campaign}/next").raise_for_status().json()["assignment"]
        for _ in range(count):
            if given is None:
                break
            begun = time.perf_counter()
            reply = http.get(f"/judging/{campaign}/next", params={"besides": given["id"]})
            if reply.is_error:
                raise RuntimeError(reply.text)
            following = reply.json()["assignment"]
            taken["next"].append(1000 * (time.perf_counter() - begun))
            deed = {
                "assignment": given["id"], "act": "vote", "nonce": uuid.uuid4().hex, "seconds": 1, "viewport": "",
                "answer": "left",
            }  # fmt: skip
            begun = time.perf_counter()
            http.post("/judging/deeds", json=deed).raise_for_status()
            taken["vote"].append(1000 * (time.perf_counter() - begun))
            given = following
    return taken


if __name__ == "__main__":
    main()
