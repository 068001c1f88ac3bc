"""The result of a search as plain values, and back."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from index.results import Hit, MissingShard, QueryResult, Region


def as_values(value: Any) -> Any:
    """A value of results as JSON has it: dataclasses by their fields, arrays as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_values(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, np.ndarray):
        # Points in hundredths of a pixel; transforms as they are.
        is_point = value.dtype == np.float32
        return (np.round(value.astype(float), 2) if is_point else value).tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: as_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_values(item) for item in value]
    return value


def read_result(values: dict[str, Any]) -> QueryResult:
    """The inverse of :func:`as_values`; fields of other versions are left out."""
    known = {each.name for each in fields(QueryResult)}
    kept = {key: value for key, value in values.items() if key in known}
    kept["hits"] = tuple(map(_read_hit, kept["hits"]))
    kept["box"] = None if kept["box"] is None else tuple(kept["box"])
    kept["partial"] = tuple(MissingShard(**shard) for shard in kept.get("partial", ()))
    kept["notes"] = tuple(kept.get("notes", ()))
    kept["regions"] = tuple(
        Region(tuple(region["box"]), tuple(region["ranks"])) for region in kept.get("regions", ())
    )
    return QueryResult(**kept)


def _read_hit(values: dict[str, Any]) -> Hit:
    known = {each.name for each in fields(Hit)}
    kept = {key: value for key, value in values.items() if key in known}
    for name in ("query_points", "points"):
        kept[name] = np.array(kept[name], np.float32).reshape(-1, 2)
    if kept["transform"] is not None:
        kept["transform"] = np.array(kept["transform"], np.float64).reshape(3, 3)
    return Hit(**kept)
