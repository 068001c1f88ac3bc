"""A plan: benchmarks to measure methods on, and the methods, as a YAML file.

    benchmarks:
      covers: {reader: queries, gallery: dvd/reference, queries: dvd/canon, truth: canon.csv}
      paris: {reader: revisited, gnd: gnd_rparis6k.pkl, images: jpg}
    methods:                              # optional: those of eval.methods.catalogue
      default: {}
      deeper: {ranking: {rerank: 400}}

A benchmark names its reader, one of :data:`eval.datasets.READERS`, and the reader's arguments. A
method is settings of an index by section and key. Paths are relative to the plan's folder.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from delg.errors import UsageError
from delg.remote_path import is_url
from delg.settings import read_yaml
from eval.benchmark import Benchmark
from eval.datasets import get_reader
from eval.methods.catalogue import METHODS, Overrides
from index.settings import FIXED, read_overrides

_SECTIONS = ("benchmarks", "methods")


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        benchmarks: by the name that tables give them.
        methods: name -> settings by section and key.
    """

    benchmarks: Mapping[str, Benchmark]
    methods: Mapping[str, Overrides]

    def select(self, benchmarks: Collection[str], methods: Collection[str]) -> Plan:
        """Only those names; of an empty collection all.

        Raises:
            UsageError: there is no such benchmark or method.
        """
        return Plan(
            _select("benchmark", self.benchmarks, benchmarks),
            _select("method", self.methods, methods),
        )


def read_plan(path: Path) -> Plan:
    """Read a plan and its benchmarks.

    Raises:
        UsageError: it cannot be read, a name or an argument in it is wrong, or a benchmark is
            incomplete.
    """
    values = read_yaml(path)
    if not isinstance(values, dict) or not values.get("benchmarks"):
        raise UsageError(f"{path}: must name benchmarks, as in 'benchmarks: {{paris: …}}'")
    for key in values:
        if key not in _SECTIONS:
            raise UsageError(f"{path}: unknown key {key!r}; there are {', '.join(_SECTIONS)}")
    benchmarks, methods = (_entries(path, values, section) for section in _SECTIONS)
    return Plan(
        {name: _benchmark(path, name, entry) for name, entry in benchmarks.items()},
        {name: _method(path, name, entry) for name, entry in (methods or METHODS).items()},
    )


def _entries(path: Path, values: dict[str, Any], section: str) -> dict[str, Mapping[str, Any]]:
    entries = values.get(section) or {}
    if not isinstance(entries, dict):
        raise UsageError(f"{path}: {section} must be names with their settings")
    for name, entry in entries.items():
        if Path(str(name)).name != str(name):
            raise UsageError(f"{path}: {section}.{name}: cannot be the name of a folder")
        if entry is not None and not isinstance(entry, dict):
            raise UsageError(f"{path}: {section}.{name} must be keys with values")
    return {str(name): entry or {} for name, entry in entries.items()}


def _benchmark(path: Path, name: str, entry: Mapping[str, Any]) -> Benchmark:
    arguments = dict(entry)
    where = f"{path}: benchmarks.{name}"
    reader = get_reader(str(arguments.pop("reader", "")))
    parameters = inspect.signature(reader, eval_str=True).parameters
    for key in arguments:
        if key not in parameters:
            raise UsageError(f"{where}: unknown key {key!r}; there are {', '.join(parameters)}")
    for key, parameter in parameters.items():
        if key not in arguments and parameter.default is parameter.empty:
            raise UsageError(f"{where}: {key} is missing")
        is_place = parameter.annotation is Path or Path in get_args(parameter.annotation)
        if key in arguments and is_place and not is_url(str(arguments[key])):
            arguments[key] = path.parent / str(arguments[key])
    return reader(**arguments)


def _method(path: Path, name: str, entry: Mapping[str, Any]) -> Overrides:
    where = f"{path}: methods.{name}"
    overrides = read_overrides(dict(entry), where)
    for section in FIXED:
        if section in overrides:
            raise UsageError(
                f"{where}: {section} is fixed when an index is created; give it in --config, "
                "and measure into another folder"
            )
    return overrides


def _select(kind: str, known: Mapping[str, Any], names: Collection[str]) -> Mapping[str, Any]:
    for name in names:
        if name not in known:
            raise UsageError(f"no {kind} called {name!r}; there are {', '.join(known)}")
    return {name: value for name, value in known.items() if not names or name in names}
