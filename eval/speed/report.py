"""Measurements as a table and as a page with charts of growth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delg.files import write_bytes
from eval.reports.charts import Chart, growth_chart
from eval.speed.harness import Measurements, Row
from index.visualize.html import load_template

COLUMNS = ("stage", "median", "fastest", "slowest", "runs", "baseline", "ratio", "note")


def cells(row: Row) -> list[str]:
    """A row of the table with the columns :data:`COLUMNS`."""
    numbers = [_number(value, row.unit) for value in (row.median, row.fastest, row.slowest)]
    baseline = "" if row.baseline is None else _number(row.baseline, row.unit)
    ratio = "" if row.ratio is None else f"{row.ratio:.1f}×"
    return [row.name, *numbers, str(row.runs), baseline, ratio, row.note]


def _number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f} {unit}"


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['platform']}, Python {machine['python']}, load {machine['load']} at the start"
    )


def write_page(path: Path, measurements: Measurements) -> None:
    """Write the table and the charts as one self-contained HTML file.

    Raises:
        DelgError: the file cannot be written.
    """
    page = load_template("eval.reports", "speed.html").render(
        columns=COLUMNS,
        rows=[cells(row) for row in measurements.rows],
        machine=[(key, _text(value)) for key, value in measurements.machine.items()],
        charts=_charts(measurements),
    )
    write_bytes(path, page.encode("utf-8", "replace"))


def _text(value: Any) -> str:
    return "; ".join(value) if isinstance(value, list) else str(value)


def _charts(measurements: Measurements) -> list[tuple[Chart, list[str]]]:
    """Each chart with the names of its lines."""
    return [
        (
            growth_chart(
                growth.title,
                growth.x_name,
                growth.y_name,
                [([p.x for p in points], [p.y for p in points]) for points in lines.values()],
            ),
            list(lines),
        )
        for growth, lines in measurements.charts.items()
    ]
