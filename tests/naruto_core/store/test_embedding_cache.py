"""The embedding cache: each embedding is computed once, and read as an array mapped from a file."""

import sqlite3
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from naruto_core.domain import Variant
from naruto_core.errors import NarutoError, RecordDamaged
from naruto_core.scoring import feature_set, sample_metrics, set_metrics
from naruto_core.scoring.evaluation import estimate
from naruto_core.scoring.feature_set import FeatureSet
from naruto_core.scoring.metrics import SET_METRICS
from naruto_core.store import embedding_cache
from naruto_core.store.embedding_cache import EmbeddingCache, shards_of

ROWS = np.random.default_rng(0).normal(size=(1203, 7)).astype(np.float16)
NAMES = [f"picture-{i}" for i in range(len(ROWS))]


def test_embeddings_are_read_in_the_order_of_the_contents_and_twice_for_a_repeated_content(tmp_path: Path):
    with EmbeddingCache(tmp_path / "e.db") as cache:
        cache.add("one", NAMES, ROWS, [i % 2 == 0 for i in range(len(NAMES))])
        order = np.random.default_rng(1).integers(len(NAMES), size=2000)
        embeddings = cache.read("one", [NAMES[i] for i in order])
    assert np.array_equal(embeddings.features, ROWS[order])
    assert np.array_equal(embeddings.blank, order % 2 == 0)


def test_each_extractor_has_its_own_embeddings_and_only_missing_ones_are_listed(tmp_path: Path):
    path = tmp_path / "e.db"
    with EmbeddingCache(path) as cache:
        cache.add("one", NAMES[:600], ROWS[:600], [False] * 600)
    with EmbeddingCache(path) as again:
        assert again.missing("one", [*NAMES, *NAMES]) == NAMES[600:]
        assert again.missing("two", NAMES[:3]) == NAMES[:3]
        again.add("one", NAMES[:2], 2 * ROWS[:2], [True, True])  # what is there stays
        assert np.array_equal(again.read("one", NAMES[:2]).features, ROWS[:2])


def test_a_damaged_row_counts_as_missing(tmp_path: Path):
    with EmbeddingCache(tmp_path / "e.db") as cache:
        cache.add("one", NAMES, ROWS, [False] * len(NAMES))
        cache.add("two", NAMES[:2], ROWS[:2], [False] * 2)
        with sqlite3.connect(tmp_path / "e.db") as database:
            damaged = (ROWS[700].tobytes()[:-1] + b"x", "one", NAMES[700])
            database.execute("update embeddings set features = ? where extractor = ? and content = ?", damaged)
            database.execute("update embeddings set blank = 1 where extractor = 'one' and content = ?", (NAMES[3],))
            database.execute("update embeddings set digest = null where extractor = 'two' and content = ?", (NAMES[1],))
        assert cache.missing("one", NAMES) == [NAMES[3], NAMES[700]]
        assert cache.missing("two", NAMES[:2]) == NAMES[1:2]
        cache.add("one", [NAMES[3], NAMES[700]], ROWS[[3, 700]], [False, False])
        assert cache.missing("one", NAMES) == []
        assert np.array_equal(cache.read("one", NAMES).features, ROWS)


def test_a_file_of_an_older_version_gets_digests(tmp_path: Path):
    with sqlite3.connect(tmp_path / "e.db") as old:
        old.execute(
            "create table embeddings (extractor varchar not null, content varchar not null, blank boolean not null,"
            " features blob not null, primary key (extractor, content))"
        )
        rows = [(who, name, 0, row.tobytes()) for who in ("a", "b") for name, row in zip(NAMES, ROWS, strict=True)]
        old.executemany("insert into embeddings values (?, ?, ?, ?)", rows)
    for _ in range(2):
        with EmbeddingCache(tmp_path / "e.db") as cache:
            assert cache.missing("a", NAMES) == cache.missing("b", NAMES) == []
            assert np.array_equal(cache.read("b", NAMES).features, ROWS)


def test_missing_embeddings_other_lengths_and_a_damaged_file_are_errors_with_a_sentence(tmp_path: Path):
    with EmbeddingCache(tmp_path / "e.db") as cache:
        cache.add("one", NAMES[:2], ROWS[:2], [False, False])
        with pytest.raises(RecordDamaged, match="1 embeddings by one are missing; score the run again"):
            cache.read("one", NAMES[:3])
        cache.add("one", NAMES[2:3], ROWS[2:3, :4], [False])
        with pytest.raises(RecordDamaged, match="several lengths"):
            cache.read("one", NAMES[:3])
    (tmp_path / "other.db").write_text("not a database, whatever its name says" * 100)
    with pytest.raises(NarutoError, match="not a SQLite database"):
        EmbeddingCache(tmp_path / "other.db")


def test_embeddings_travel_as_parquet_files_whose_name_says_what_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedding_cache, "SHARD_ROWS", 500)
    shards = shards_of("one", NAMES)
    assert shards == shards_of("one", [*reversed(NAMES), NAMES[0]])
    assert [len(part) for part in shards.values()] == [500, 500, 203]
    assert not set(shards) & set(shards_of("two", NAMES))
    with EmbeddingCache(tmp_path / "e.db") as cache, EmbeddingCache(tmp_path / "other.db") as other:
        cache.add("one", NAMES, ROWS, [i % 2 == 0 for i in range(len(NAMES))])
        files = [cache.to_parquet("one", part) for part in shards.values()]
        assert files == [cache.to_parquet("one", part) for part in shards.values()]
        for data in files:
            other.add_parquet("one", data)
        read, written = other.read("one", NAMES), cache.read("one", NAMES)
        assert np.array_equal(read.features, written.features)
        assert np.array_equal(read.blank, written.blank)
        changed = bytearray(files[0])
        changed[files[0].index(ROWS[0].tobytes())] ^= 1
        for data in (bytes(changed), files[0][:100], b""):
            with pytest.raises(RecordDamaged, match=r"is not as it was written|no parquet file of embeddings"):
                other.add_parquet("one", data)
        with pytest.raises(RecordDamaged, match="is not as it was written"):
            other.add_parquet("two", files[0])
        assert other.missing("two", NAMES) == NAMES


def test_nothing_but_the_database_is_left_on_the_disk(tmp_path: Path):
    with EmbeddingCache(tmp_path / "e.db") as cache:
        cache.add("one", NAMES, ROWS, [False] * len(NAMES))
        embeddings = cache.read("one", NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["e.db"]
    assert embeddings.features.sum(dtype=np.float64) == pytest.approx(ROWS.sum(dtype=np.float64))


def test_ten_times_the_pictures_need_hardly_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From the cache through every set metric, with smaller chunks, so that few pictures are more than one."""
    for module in (feature_set, set_metrics, sample_metrics):
        monkeypatch.setattr(module, "MOST", 128)
    monkeypatch.setattr(feature_set, "_CHUNK", 64)
    many, d, random = 6000, 128, np.random.default_rng(0)
    names = [f"p{number}" for number in range(many)]
    with EmbeddingCache(tmp_path / "e.db") as cache:
        for start in range(0, many, 1000):
            cache.add("x", names[start : start + 1000], random.normal(size=(1000, d)), [False] * 1000)

        def peak(count: int) -> int:
            """The most bytes that are allocated while `count` pictures are read and measured."""
            tracemalloc.start()
            rows = cache.read("x", names[:count]).features
            drawn = rows[:64]
            prompts = [str(number // 2) for number in range(64)]
            features = FeatureSet("x", prompts, {Variant.ADAPTED: drawn}, rows[64:], rows[:64])
            for metric in SET_METRICS:
                estimate(features, metric, Variant.ADAPTED)
            sample_metrics.style_closeness(drawn, rows)
            sample_metrics.nearness(drawn, rows)
            sample_metrics.cosines(rows, rows)
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return most

        peak(many // 10)  # what is made once in a process
        few, all_of_them = peak(many // 10), peak(many)
    in_memory = many * d * 8  # what one copy in double precision would take
    assert all_of_them - few < in_memory / 2, f"{few:,} bytes for {many // 10:,}, {all_of_them:,} for {many:,}"
