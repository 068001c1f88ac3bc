"""Folders that cannot be looked at, also for a process that may read everything."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def close(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int = errno.EACCES) -> None:
    """Let the system answer all looks at and into a folder with an error."""

    def closing(function: Any) -> Any:
        def look(path: Any = ".", *words: Any, **options: Any) -> Any:
            is_path = isinstance(path, (str, os.PathLike))
            if is_path and Path(path).absolute().is_relative_to(folder):
                raise OSError(number, os.strerror(number), str(path))
            return function(path, *words, **options)

        return look

    for name in ("stat", "scandir", "listdir"):
        monkeypatch.setattr(os, name, closing(getattr(os, name)))
