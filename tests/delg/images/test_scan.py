from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from closed import close

from delg.errors import UsageError
from delg.images.decode import SUFFIXES
from delg.images.scan import describe_passed_over, scan


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def ids(*sources: str | Path, prefix: str = "") -> list[str]:
    photos, failures, _ = scan(sources, prefix)
    assert not failures
    return [photo.id for photo in photos]


def test_folders_are_read_to_the_bottom_and_sorted_by_id(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/z.png", "a/b/c/deep.gif", "a.jpg", "A.jpg")
    assert ids(tmp_path) == sorted(["A.jpg", "a.jpg", "a/b/c/deep.gif", "a/z.png", "b.jpg"])


def test_paths_are_absolute_and_lead_to_the_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "set/one/x.jpg")
    monkeypatch.chdir(tmp_path)
    for source in ("set", Path("set"), "./set", tmp_path / "set"):
        photos, failures, _ = scan([source])
        assert not failures
        assert [photo.id for photo in photos] == ["one/x.jpg"]
        assert photos[0].path.is_absolute()
        assert photos[0].path.read_bytes() == b"set/one/x.jpg"


def test_scanning_repeats(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{folder}/{n}.jpg" for folder in "cab" for n in range(20)))
    assert scan([tmp_path]) == scan([tmp_path])


def test_order_of_sources_does_not_matter_to_the_order_of_photos(tmp_path: Path) -> None:
    touch(tmp_path, "one/b.jpg", "two/a.jpg")
    assert ids(tmp_path / "one", tmp_path / "two") == ids(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_suffixes_in_any_case(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}")
    assert len(ids(tmp_path)) == 3


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", "jpg", "photo.jpg.txt", "README", "b.pdf", "x.jpg")
    assert ids(tmp_path) == ["x.jpg"]


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, ".a.jpg", ".thumbs/b.jpg", "seen/.hidden/c.jpg", "seen/d.jpg", "._e.jpg")
    assert ids(tmp_path) == ["seen/d.jpg"]


def test_a_hidden_source_is_read_when_named(tmp_path: Path) -> None:
    touch(tmp_path, ".photos/a.jpg")
    assert ids(tmp_path / ".photos") == ["a.jpg"]


def test_an_empty_folder_has_no_photos(tmp_path: Path) -> None:
    assert ids(tmp_path) == []
    assert ids() == []


@pytest.mark.timeout(20)
def test_loops_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg", "b/y.jpg")
    # Two ways up from one folder: followed blindly, they double at every round.
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "up too").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b" / "nowhere").symlink_to(tmp_path / "b" / "nowhere")
    photos, failures, _ = scan([tmp_path])
    assert not failures
    assert {photo.path.name for photo in photos} == {"x.jpg", "y.jpg"}
    assert len(photos) == 2


def test_links_to_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/x.jpg", "source/y.jpg")
    (tmp_path / "source" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert ids(tmp_path / "source") == ["link/x.jpg", "y.jpg"]


@pytest.mark.parametrize("name", ["gone", "gone/photo.jpg", "x" * 300])
def test_a_missing_source_is_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "there.jpg")
    with pytest.raises(UsageError, match=name):
        scan([tmp_path, tmp_path / name])


def test_a_file_is_a_source_too(tmp_path: Path) -> None:
    touch(tmp_path, "a/one.jpg", "a/two.jpg", "a/odd-name")
    assert ids(tmp_path / "a" / "one.jpg") == ["one.jpg"]
    # Asked for by name, the suffix does not matter: the content decides.
    assert ids(tmp_path / "a" / "odd-name") == ["odd-name"]


def test_a_photo_given_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    assert ids(tmp_path, tmp_path, tmp_path / "a.jpg") == ["a.jpg", "b.jpg"]


def test_two_sources_with_one_id(tmp_path: Path) -> None:
    touch(tmp_path, "one/sub/a.jpg", "two/sub/a.jpg", "two/b.jpg")
    photos, failures, _ = scan([tmp_path / "one", tmp_path / "two"])
    assert [photo.id for photo in photos] == ["b.jpg", "sub/a.jpg"]
    assert photos[1].path == tmp_path / "one/sub/a.jpg"
    assert [failure.path for failure in failures] == [str(tmp_path / "two/sub/a.jpg")]
    assert "'sub/a.jpg'" in failures[0].reason
    assert str(tmp_path / "one/sub/a.jpg") in failures[0].reason


def test_a_prefix_keeps_sources_apart(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg")
    assert ids(tmp_path / "one", prefix="set1/") == ["set1/a.jpg"]
    assert ids(tmp_path / "one" / "a.jpg", prefix="set1/") == ["set1/a.jpg"]


def test_a_name_that_is_not_utf8_is_a_failure(tmp_path: Path) -> None:
    try:
        touch(tmp_path, os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"d\xff/x.jpg"), "good.jpg")
    except (OSError, UnicodeError):
        pytest.skip("this file system admits UTF-8 names only")
    photos, failures, _ = scan([tmp_path])
    assert [photo.id for photo in photos] == ["good.jpg"]
    assert len(failures) == 2
    for failure in failures:
        failure.path.encode("utf-8")
        assert "UTF-8" in failure.reason
    assert any("caf\\xe9.jpg" in failure.path for failure in failures)


def test_unicode_names_are_kept(tmp_path: Path) -> None:
    touch(tmp_path, "Île de Ré/été 1.jpg", "東京.png")
    assert ids(tmp_path) == sorted(["Île de Ré/été 1.jpg", "東京.png"])


not_as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything"
)


@not_as_root
def test_a_folder_that_cannot_be_listed_is_a_failure(tmp_path: Path) -> None:
    touch(tmp_path, "closed/a.jpg", "open/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        photos, failures, _ = scan([tmp_path])
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert [photo.id for photo in photos] == ["open/b.jpg"]
    assert [failure.path for failure in failures] == [str(tmp_path / "closed")]
    assert "cannot be listed" in failures[0].reason


@not_as_root
def test_a_source_behind_a_closed_folder_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "closed/photos/a.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(UsageError, match="closed/photos"):
            scan([tmp_path / "closed" / "photos"])
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a.NEF", "b.nef", "c/d.mov", "README", ".hidden.nef", "x.jpg", "@eaDir/y.nef")
    listing = scan([tmp_path])
    assert listing.passed_over == {".nef": 2, ".mov": 1, "": 1}
    described = describe_passed_over(listing.passed_over)
    assert described == "4 passed over (.nef 2, no suffix 1, .mov 1)"
    assert describe_passed_over({}) == ""
    assert "more" not in describe_passed_over({f".{n}": 1 for n in range(20)})


def test_patterns_leave_out_names_and_paths(tmp_path: Path) -> None:
    names = ("a.jpg", "raw/b.jpg", "c/raw/d.jpg", "c/e.jpg", "c/e_small.jpg")
    touch(tmp_path, *names, "@eaDir/f.jpg", "c/#recycle/g.jpg", "\u00e9/h.jpg")

    def left(*patterns: str) -> list[str]:
        return [photo.id for photo in scan([tmp_path], exclude=patterns).photos]

    assert left() == sorted([*names, "\u00e9/h.jpg"])
    assert left("raw", "e\u0301") == ["a.jpg", "c/e.jpg", "c/e_small.jpg"]
    assert left("c/*", "\u00e9") == ["a.jpg", "raw/b.jpg"]
    assert left("raw/", "*_small.*", "\u00e9") == ["a.jpg", "c/e.jpg"]
    touch(tmp_path, ".hidden/i.jpg")
    everything = scan([tmp_path], exclude=["raw"], default_excludes=False).photos
    hidden = [".hidden/i.jpg", "@eaDir/f.jpg", "c/#recycle/g.jpg"]
    assert {photo.id for photo in everything} == {*left("raw"), *hidden}
    # A source with such a name is read: it was asked for.
    assert [photo.id for photo in scan([tmp_path / "@eaDir"]).photos] == ["f.jpg"]


def test_two_unicode_forms_of_one_name_are_one_id(tmp_path: Path) -> None:
    touch(tmp_path, "e\u0301.jpg")
    assert ids(tmp_path) == ["\u00e9.jpg"] == ids(tmp_path / "\u00e9.jpg")
    touch(tmp_path, "\u00e9.jpg")
    photos, failures, _ = scan([tmp_path])
    assert (len(photos), len(failures)) == (1, 1) and "belongs to" in failures[0].reason


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
def test_folders_that_cannot_be_looked_at_are_failures_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    touch(tmp_path, "closed/deep/a.jpg", "open/b.jpg")
    close(monkeypatch, tmp_path / "closed", number)
    photos, failures, _ = scan([tmp_path])
    assert [photo.id for photo in photos] == ["open/b.jpg"]
    assert [failure.path for failure in failures] == [str(tmp_path / "closed")]
    with pytest.raises(UsageError, match=os.strerror(number)):
        scan([tmp_path / "closed" / "deep"])
