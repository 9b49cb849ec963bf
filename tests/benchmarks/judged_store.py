"""A record as large as the dashboard must bear: runs, pictures and votes, written straight into its tables."""

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from naruto_core.artifacts import Layout
from naruto_core.dataset.versions import write_version
from naruto_core.domain import Picture, Split
from naruto_core.ratings import Role
from naruto_core.store.database import Store, open_database, open_store

START = datetime(2026, 1, 1)  # noqa: DTZ001 - as the tables keep times: UTC, without a zone
PROMPTS, SEEDS, CAMPAIGNS, REVIEWERS = 25, 2, 20, 50


def fill(root: Path, runs: int, votes: int) -> dict[str, str]:
    """`runs` of 100 pictures each and `votes` in 20 campaigns of two to six models; tokens of reviewers by id."""
    url = f"sqlite:///{root / 'naruto.db'}"
    with open_store(url) as store:
        _dataset(root, store)
    with open_database(url).ratings as ratings:
        ratings.add_reviewer("admin", Role.ADMIN)
        people = dict(ratings.add_reviewer(f"r{i}", Role.REVIEWER) for i in range(REVIEWERS))
    with sqlite3.connect(root / "naruto.db") as db:
        _runs(db, runs)
        _campaigns(db, runs, votes, [one.id for one in people])
        _served(db, votes // 10)
        db.execute("ANALYZE")
    return {one.id: token for one, token in people.items()}


def _dataset(root: Path, store: Store) -> None:
    """2,000 pictures whose files are gone, every tenth like the one before it."""
    digests = [f"{i:064x}" for i in range(2000)]
    rows = [
        Picture(digest, ".png", 64, 64, f"a ninja {i % 700}", Split.TRAIN, f"{i:016x}", first)
        for i, digest in enumerate(digests)
        for first in [digests[i - 1] if i % 10 == 9 else ""]
    ]
    store.add_dataset(write_version(Layout(root), "big", "a folder", rows, n_quarantined=0, n_duplicates=200), [])


def _runs(db: sqlite3.Connection, runs: int) -> None:
    tags = ("portrait", "action", "group", "style")
    db.execute("INSERT INTO datasets VALUES ('d1', 'world:x', 'datasets/x', 0, 80, 20, 0, 0)")
    db.execute("INSERT INTO suites VALUES ('s1', 'big-v1', ?)", (json.dumps(list(range(SEEDS))),))
    db.executemany(
        "INSERT INTO prompts (suite, position, slug, text, content, tags) VALUES ('s1', ?, ?, ?, ?, ?)",
        [(i, f"p{i}", f"prompt {i}", f"prompt {i}", json.dumps([tags[i % 4]])) for i in range(PROMPTS)],
    )
    db.executemany(
        "INSERT INTO runs (id, profile, fingerprint, dataset_id, suite, state, started_at, finished_at, failure, "
        "recipe_json, git_commit) VALUES (?, 'mini', ?, 'd1', 's1', 'done', ?, ?, '', ?, '')",
        [
            (
                name(i),
                f"f{i}",
                _at(i * 3600),
                _at(i * 3600 + 300),
                json.dumps({"training": {"rank": 4 + i % 3, "seed": i}}),
            )
            for i in range(runs)
        ],
    )
    samples = [
        (sample(i, variant, p, s), name(i), variant, f"p{p}", s, "none.png", f"{i:04x}{p:04x}{s:04x}{variant:>52}")
        for i in range(runs)
        for variant in ("base", "fused")
        for p in range(PROMPTS)
        for s in range(SEEDS)
    ]
    db.executemany(
        "INSERT INTO samples (id, run_id, variant, prompt, seed, path, sha256) VALUES (?,?,?,?,?,?,?)", samples
    )
    scores = "INSERT INTO scores (run_id, metric, variant, value, low, high, n, extractor, version, reference, method, "
    db.executemany(
        scores + "subject, sample_id) VALUES (?, 'clip', ?, ?, ?, ?, 1, 'judge', '1', '', '', ?, ?)",
        [
            (run, variant, v, v, v, id_, id_)
            for id_, run, variant, _, _, _, sha in samples
            for v in [hash(sha) % 97 / 97]
        ],
    )
    details = json.dumps(
        {"suite": "s1", "seeds": "0, 1", "libraries": "numpy 2", "change": -5.0, "change_word": "better"}
    )
    metrics = ("fd-judge", "mmd", "clip", "clip-content", "attributes", "vendi", "precision", "recall", "density")
    db.executemany(
        scores + "subject, details) VALUES (?, ?, ?, ?, ?, ?, 40, 'judge', '1', 'd1', 'jackknife', '', ?)",
        [
            (name(i), metric, variant, value, value - 5, value + 5, details)
            for i in range(runs)
            for metric in metrics
            for variant in ("base", "fused", "real")
            for value in [90 - i % 53]
        ],
    )
    db.executemany(
        "INSERT INTO steps (run_id, step, loss, learning_rate, gauges) VALUES (?, ?, ?, 1.0, '{\"d\": 0.1}')",
        [(name(i), step, 1 / (step + 1)) for i in range(runs) for step in range(200)],
    )


def _campaigns(db: sqlite3.Connection, runs: int, votes: int, people: list[str]) -> None:
    """Each campaign: the fused models of some runs in all pairs, every unit judged by several people."""
    event = assignment = 0
    for number in range(CAMPAIGNS):
        models = [(number * 40 + i) % runs for i in range(2 + number % 5)]
        db.execute(
            "INSERT INTO campaigns (id, name, question, mode, opened_at, informative, repeats, example, units) "
            "VALUES (?, ?, 'Which?', 'pair', ?, 0.7, 0.06, 0, 0)",
            (f"c{number}", f"campaign {number}", _at(number)),
        )
        pairs = [(a, b, p, s) for a in models for b in models if a < b for p in range(PROMPTS) for s in range(SEEDS)]
        given = votes // CAMPAIGNS // len(people)
        units = (pairs * (given * 50 // len(pairs) // 8 + 2))[: max(given * 6 // 5, 400)]
        first = db.execute("SELECT coalesce(max(id), 0) FROM units").fetchone()[0] + 1
        db.executemany(
            "INSERT INTO units (id, campaign_id, position, prompt, text, seed, samples, contenders, pairing, wanted, "
            "given, gold) VALUES (?, ?, ?, ?, 'a ninja', ?, ?, ?, ?, ?, ?, '')",
            [_unit(number, first + i, i, unit, given, len(people)) for i, unit in enumerate(units)],
        )
        count = "SELECT count(*) FROM units WHERE campaign_id = ?1 AND given < wanted AND gold = ''"
        db.execute(f"UPDATE campaigns SET units = ?2, open_units = ({count}) WHERE id = ?1", (f"c{number}", len(units)))
        rows, events = [], []
        for unit in range(min(given, len(units))):
            for who in people:
                event, assignment = event + 1, assignment + 1
                shown = ("01", "10")[hash((unit, who)) % 2]
                answer = ("left", "right", "left", "tie")[hash((who, unit, number)) % 4]
                rows.append((f"a{assignment}", f"c{number}", first + unit, who, shown, _at(0), event))
                events.append((event, f"a{assignment}", json.dumps(answer), f"n{event}", _at(event)))
        db.executemany(
            "INSERT INTO assignments (id, campaign_id, unit_id, reviewer_id, shown, repeat, propensity, done, "
            "leased_until, last_event) VALUES (?, ?, ?, ?, ?, 0, 0.1, 1, ?, ?)",
            rows,
        )
        db.executemany(
            "INSERT INTO rating_events (id, assignment_id, act, answer, nonce, seconds, viewport, at) "
            "VALUES (?, ?, 'vote', ?, ?, 3.0, '390x844', ?)",
            events,
        )


def _unit(
    campaign: int, key: int, place: int, unit: tuple[int, int, int, int], given: int, people: int
) -> tuple[object, ...]:
    """The columns of one pair; the first `given` are judged by everybody."""
    one, other, prompt, seed = unit
    samples = [sample(one, "fused", prompt, seed), sample(other, "fused", prompt, seed)]
    names = [model(one), model(other)]
    done = people if place < given else 0
    return (
        key, f"c{campaign}", place, f"p{prompt}", seed, json.dumps(samples), json.dumps(names),
        " ".join(sorted(names)), people, done,
    )  # fmt: skip


def name(run: int) -> str:
    return f"run-{run:05}"


def model(run: int) -> str:
    return f"{name(run)}/fused"


def sample(run: int, variant: str, prompt: int, seed: int) -> str:
    return f"{run}-{variant}-{prompt}-{seed}"


def _at(seconds: int) -> str:
    return str(START + timedelta(seconds=seconds)) + ".000000"


def _served(db: sqlite3.Connection, requests: int) -> None:
    """So many requests in the last 24 hours; one in twenty was measured."""
    now = datetime.now(UTC).replace(tzinfo=None)
    moments = [now - timedelta(seconds=86_000 * i / requests) for i in range(requests)]
    db.executemany(
        "INSERT INTO service_jobs (id, instance, key, model, n, width, height, num_inference_steps, seeds, asked_at, "
        "state, started_at, finished_at, failure, pictures) "
        "VALUES (?, 'one', 'ada', ?, 1, 64, 64, 30, '[1]', ?, 'done', ?, ?, '', '[]')",
        [
            (f"job{i}", name(0), *(_written(at + timedelta(seconds=s)) for s in (0, 1, 2 + i % 7)))
            for i, at in enumerate(moments)
        ],
    )
    db.executemany(
        "INSERT INTO served_scores (picture, metric, run_id, asked, drawn_at, value, extractor) "
        "VALUES (?, ?, ?, ?, ?, ?, 'judge')",
        [
            (f"s{i}", metric, name(0), f"asked{i % 300}", _written(at), 0.6 + i % 10 / 100)
            for i, at in enumerate(moments[::20])
            for metric in ("clip", "style", "blank")
        ],
    )


def _written(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")
