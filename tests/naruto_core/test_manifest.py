"""Files of a cache folder are what was written, or are named."""

from pathlib import Path

from naruto_core.artifacts import MANIFEST, Manifest


def test_a_file_that_is_missing_changed_or_unknown_is_not_trusted(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(4)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    Manifest(tmp_path).add(names[:2])
    Manifest(tmp_path).add(names[2:3])
    assert Manifest(tmp_path).missing_or_changed(names) == names[3:]
    (tmp_path / names[0]).write_bytes(b"1.png")
    (tmp_path / names[1]).unlink()
    assert Manifest(tmp_path).missing_or_changed(names) == [names[0], names[1], names[3]]


def test_a_damaged_manifest_proves_nothing_and_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for damaged in (b"", b"[1]", b"\xff", b'{"a": 1}'):
        Manifest(tmp_path).add(["a"])
        assert Manifest(tmp_path).missing_or_changed(["a"]) == []
        (tmp_path / MANIFEST).write_bytes(damaged)
        assert Manifest(tmp_path).missing_or_changed(["a"]) == ["a"]
