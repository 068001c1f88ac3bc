import errno
import os
import unicodedata
from pathlib import Path

import pytest
from closed import close

from delg.paths import (
    Presence,
    UnreachableError,
    as_written,
    exists,
    is_file,
    is_folder,
    name_forms,
    normal_form,
    presence,
)


def test_what_lies_at_a_path(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    kinds = {
        name: presence(tmp_path / name).kind
        for name in (".", "file", "pipe", "nothing", "dangling", "file/below")
    }
    assert kinds == {
        ".": "folder",
        "file": "file",
        "pipe": "other",
        "nothing": "absent",
        "dangling": "absent",
        "file/below": "absent",
    }
    assert exists(tmp_path / "pipe") and not is_file(tmp_path / "pipe")
    assert is_folder(str(tmp_path)) and not exists(tmp_path / "dangling")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO, errno.ENOTCONN])
def test_what_cannot_be_looked_at_is_neither_there_nor_absent(tmp_path, monkeypatch, number):
    close(monkeypatch, tmp_path / "share", number)
    state = presence(tmp_path / "share" / "a.jpg")
    assert state == Presence("unreachable", os.strerror(number)) and not state.is_there
    for look in (exists, is_file, is_folder):
        with pytest.raises(UnreachableError, match=f"share/a.jpg.*{os.strerror(number)}"):
            look(tmp_path / "share" / "a.jpg")


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_names_that_no_file_can_have_are_refused(tmp_path, name):
    assert presence(tmp_path / name).kind == "unreachable"
    with pytest.raises(UnreachableError):
        exists(tmp_path / name)


def test_one_name_in_all_its_unicode_forms(tmp_path):
    composed, decomposed = "\u00e9t\u00e9", unicodedata.normalize("NFD", "\u00e9t\u00e9")
    assert composed != decomposed and normal_form(decomposed) == composed
    assert name_forms(decomposed) == (decomposed, composed) and name_forms("a") == ("a",)
    (tmp_path / decomposed).mkdir()
    assert as_written(tmp_path / composed) == tmp_path / decomposed
    assert as_written(Path("\u00e8")) == Path("\u00e8")
