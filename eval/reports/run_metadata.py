"""The conditions of runs as flat lists, and where they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.run import Run

ABSENT = "–"
# When and how fast, which differ between any two runs.
_TIMES = ("finished", "seconds", "query_ms")
# Reasons by query; how many there are says enough here.
_COUNTED = "failed_queries"


@dataclass(frozen=True)
class Setting:
    """A recorded fact, e.g. "engine.rerank", and its value in each run as text."""

    name: str
    values: tuple[str, ...]


def flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as "outer.inner" -> text."""
    flat: dict[str, str] = {}
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name == _COUNTED:
            flat[name] = str(len(value))
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = as_text(value)
    return flat


def as_text(value: Any) -> str:
    """A fact as people read it."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(as_text, value))
    return str(value)


def differing_settings(runs: Sequence[Run]) -> tuple[Setting, ...]:
    """The facts that are not the same in all runs, but for times."""
    flats = [flatten(run.metadata) for run in runs]
    names = dict.fromkeys(name for flat in flats for name in flat)
    settings = [Setting(n, tuple(flat.get(n, ABSENT) for flat in flats)) for n in names]
    return tuple(
        one for one in settings if len(set(one.values)) > 1 and one.name.split(".")[0] not in _TIMES
    )


def distinct_titles(runs: Sequence[Run]) -> tuple[str, ...]:
    """The runs' titles; where several are alike, with a number."""
    total, seen = Counter(run.title for run in runs), Counter[str]()
    titles = []
    for run in runs:
        seen[run.title] += 1
        many = total[run.title] > 1
        titles.append(f"{run.title} ({seen[run.title]})" if many else run.title)
    return tuple(titles)
