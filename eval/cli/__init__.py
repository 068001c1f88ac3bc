"""``delg eval …``: benchmarks, comparisons of runs, speed."""

from __future__ import annotations

import typer

from delg.cli.options import group
from eval.cli import benchmarks, methods, regions, runs, speed


def register(delg: typer.Typer) -> None:
    """Add the group to ``delg``."""
    app = group("Evaluate the engine, on published benchmarks or on photos of your own.")
    for module in (benchmarks, methods, regions, runs, speed):
        module.add_commands(app)
    delg.add_typer(app, name="eval")
