"""Metadata of runs as flat lists, and where runs differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.run import Run

ABSENT = "–"
# Times differ between any two runs.
_TIMES = ("finished", "seconds", "query_ms")
# Reasons by photo: here only their number.
_COUNTED = ("failed_queries", "failed_gallery")


@dataclass(frozen=True)
class Setting:
    """An entry of the metadata, e.g. "engine.rerank", and its value in each run as text."""

    name: str
    values: tuple[str, ...]


def flatten(metadata: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested metadata as "outer.inner" -> text."""
    flat: dict[str, str] = {}
    for key, value in metadata.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name in _COUNTED:
            flat[name] = str(len(value))
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = as_text(value)
    return flat


def as_text(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(as_text, value))
    return str(value)


def differing_settings(runs: Sequence[Run]) -> tuple[Setting, ...]:
    """The entries that are not the same in all runs, except times."""
    flats = [flatten(run.metadata) for run in runs]
    names = dict.fromkeys(name for flat in flats for name in flat)
    settings = [Setting(n, tuple(flat.get(n, ABSENT) for flat in flats)) for n in names]
    return tuple(
        setting
        for setting in settings
        if len(set(setting.values)) > 1 and setting.name.split(".")[0] not in _TIMES
    )


def distinct_titles(runs: Sequence[Run]) -> tuple[str, ...]:
    """The runs' titles, numbered where several are the same."""
    total, used = Counter(run.title for run in runs), Counter[str]()
    titles = []
    for run in runs:
        used[run.title] += 1
        is_repeated = total[run.title] > 1
        titles.append(f"{run.title} ({used[run.title]})" if is_repeated else run.title)
    return tuple(titles)
