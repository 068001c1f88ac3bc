"""YAML and JSON from elsewhere never take gigabytes, and never end in a traceback."""

from pathlib import Path

import pytest

from delg.errors import UsageError
from delg.plain_values import PlainValuesError, parse_json, parse_yaml, read_text
from delg.settings import GlobalHeadSettings, read_yaml

BOMB = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '0'] * 9)}]" for n in range(9))
HOSTILE = {
    "aliases": BOMB,
    "deep": "[" * 5000,
    "deep block": "- " * 5000,
    "long number": "a: " + "9" * 20_000,
    "date": "a: 2026-13-45",
    "key": "? [a]\n: 1",
    "cycle": "&a [*a]",
    "merge": "<<: 3",
    "tag": "!!python/object/apply:os.system [id]",
    "binary": "!!binary a",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused(name, tmp_path):
    (tmp_path / "x.yaml").write_text(HOSTILE[name])
    with pytest.raises(UsageError, match=r"x\.yaml: "):
        read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", "\xff", '{"a": }'])
def test_hostile_json_is_refused(text):
    with pytest.raises(PlainValuesError):
        parse_json(text)


def test_no_more_is_read_than_such_a_file_has(tmp_path):
    (tmp_path / "large.yaml").write_bytes(b"#" * 2_000_000)
    for path in (Path("/dev/zero"), tmp_path / "large.yaml"):
        with pytest.raises(UsageError, match="more than 250,000 bytes"):
            read_yaml(path)
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    with pytest.raises(PlainValuesError, match="not UTF-8"):
        read_text(tmp_path / "latin")


def test_aliases_that_repeat_little_are_fine():
    assert parse_yaml("a: &x [1, 2]\nb: *x")["b"] == [1, 2]


def test_where_infinity_means_something_it_is_taken():
    assert GlobalHeadSettings(gem_p=float("inf")).gem_p == float("inf")
