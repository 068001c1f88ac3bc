"""``delg eval …``: measure the engine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from delg.commands.options import AsJson, group
from delg.console import put, table

app = group("Measure the engine.")


@app.command("speed")
def eval_speed(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each stage.")] = 9,
    as_json: AsJson = False,
) -> None:
    """How long each stage takes on this machine."""
    from eval.speed import report

    found = report(runs)
    if as_json:
        put(json.dumps(found))
        return
    put(found["machine"])
    table(
        ["stage", "median ms", "fastest", "slowest"],
        [
            [
                row["name"],
                *(f"{row[key]:.2f}" for key in ("median_ms", "fastest_ms", "slowest_ms")),
            ]
            for row in found["rows"]
        ],
    )
