"""Charts over queries, drawn by matplotlib as inline SVG that takes its colours from the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from eval.benchmark import ALL_QUERIES, IGNORED_PART, RecognitionTruth
from eval.metrics import precision_recall_curve, rank_predictions, recall_curve
from eval.reports.query_examples import ranking_of, right_and_ignored
from eval.run import Run
from eval.scoring import query_metric

# Lines with a colour and dashes of their own.
MAX_LINES = 6
# Points of a curve: the eye tells no more apart.
_POINTS = 400
# The last rank of the recall@k chart.
_LAST_RANK = 100
# Placeholders that become the page's colours, so that charts follow light and dark.
_INK, _QUIET, _RULE = "#010101", "#020202", "#030303"
_LINES = tuple(f"#0404{number:02x}" for number in range(1, MAX_LINES + 1))
_THEME = {
    _INK: "var(--ink)",
    _QUIET: "var(--quiet)",
    _RULE: "var(--rule)",
    **{colour: f"var(--line-{number})" for number, colour in enumerate(_LINES, 1)},
}
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
_SIZE = (4.4, 3.1)
# Round numbers on a logarithmic axis: the first of these steps per decade with few enough ticks.
_STEPS, _MAX_TICKS = ((1, 2, 5), (1, 3), (1,)), 6


@dataclass(frozen=True)
class Curve:
    """A line of a chart: float64 (N,) each."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Chart:
    """A drawn chart, with its heading and an explanation."""

    title: str
    note: str
    svg: Markup


def _rankings(run: Run, part: str) -> tuple[dict[str, list[str]], dict[str, frozenset[str]]]:
    """Rankings without ignored images, and relevant images, of the scored queries."""
    rankings, relevant = {}, {}
    for query in run.scores.queries.get(part, {}):
        right, ignored = right_and_ignored(run.benchmark, part, query)
        relevant[query] = right
        ids = ranking_of(run, part, query).ids
        rankings[query] = [image for image in ids if image not in ignored]
    return rankings, relevant


def retrieval_charts(runs: Sequence[Run], part: str) -> list[Chart]:
    """AP by query, precision-recall and recall@k of a part, one line per run.

    The first ``MAX_LINES`` runs are drawn.
    """
    metric = query_metric(runs[0].benchmark)
    last = min(_LAST_RANK, runs[0].benchmark.depth or _LAST_RANK)
    ks = range(1, last + 1)
    sorted_values: list[Curve | None] = []
    precisions: list[Curve | None] = []
    recalls: list[Curve | None] = []
    for run in runs[:MAX_LINES]:
        rankings, relevant = _rankings(run, part)
        values = [row[metric] for row in run.scores.queries.get(part, {}).values()]
        sorted_values.append(_descending(values) if values else None)
        if not relevant:
            precisions.append(None)
            recalls.append(None)
            continue
        precisions.append(Curve(*precision_recall_curve(rankings, relevant)))
        recall = recall_curve(rankings, relevant, ks)
        recalls.append(Curve(np.array(ks, np.float64), recall))
    return [
        Chart(
            f"{metric} by query",
            "Each run's queries sorted from best to worst: the steeper the fall, the more the "
            "queries differ in difficulty.",
            _draw(sorted_values, "share of the queries", metric, f"{metric} by query, {part}"),
        ),
        Chart(
            "Precision and recall",
            "Interpolated precision, mean over queries; precision is 0 at recall levels that a "
            "ranking never reaches.",
            _draw(precisions, "recall", "precision", f"Precision by recall, {part}"),
        ),
        Chart(
            "Recall@k",
            "Share of the queries with at least one relevant photo among the first k hits.",
            _draw(recalls, "k", "recall@k", f"Recall at k, {part}", last),
        ),
    ]


def reliability_chart(runs: Sequence[Run], part: str) -> Chart | None:
    """The share of hits that are right by their stated probability; None where no run has any."""
    calibrations = [
        proof.calibration if (proof := run.scores.proof.get(part)) else None
        for run in runs[:MAX_LINES]
    ]
    if not any(calibrations):
        return None

    def plot(axes: Any) -> None:
        axes.plot((0, 1), (0, 1), color=_QUIET, linewidth=1)
        for number, calibration in reversed([*enumerate(calibrations)]):
            if calibration is not None:
                style = {"color": _LINES[number], "linestyle": _DASHES[number]}
                axes.plot(calibration.stated, calibration.right, marker="o", markersize=3, **style)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)

    return Chart(
        f"Reliability, {part}" if part != ALL_QUERIES else "Reliability",
        "Hits with evidence, in ten bins of stated probability: on the thin diagonal it is right "
        "as often as it says.",
        _figure(plot, "probability", "share that is right", f"Reliability, {part}"),
    )


def _descending(values: Sequence[float]) -> Curve:
    ordered = np.sort(np.array(values, np.float64))[::-1]
    ends = np.arange(len(ordered) + 1) / len(ordered)
    if len(ordered) > _POINTS:
        sample = np.linspace(0, len(ordered) - 1, _POINTS).round().astype(int)
        return Curve((sample + 0.5) / len(ordered), ordered[sample])
    # Steps one query wide: few queries should look like few.
    return Curve(np.repeat(ends, 2)[1:-1], np.repeat(ordered, 2))


@dataclass(frozen=True)
class Thresholds:
    """Coverage and precision at each score threshold, highest first: float64 (N,) each.

    Attributes:
        scores: the threshold.
        coverage: share of all queries that get a prediction.
        precision: share of these predictions that are right.
    """

    scores: NDArray[np.float64]
    coverage: NDArray[np.float64]
    precision: NDArray[np.float64]


def thresholds(run: Run) -> Thresholds:
    """Precision and coverage of a recognition run by score threshold."""
    labels = {
        query: truth.labels
        for query, truth in run.benchmark.truth.items()
        if isinstance(truth, RecognitionTruth) and truth.part != IGNORED_PART
    }
    predicted = {q: pair for q, pair in run.predictions.labels.items() if q in labels}
    correct, _ = rank_predictions(predicted, labels)
    scores = np.sort([pair[1] for pair in predicted.values() if pair is not None])[::-1]
    scores = scores.astype(np.float64)
    # Predictions of equal score pass a threshold together.
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, len(scores) > 0))
    counts = np.arange(1, len(scores) + 1)
    precision = np.cumsum(correct) / counts
    return Thresholds(scores[ends], counts[ends] / max(len(labels), 1), precision[ends])


def recognition_chart(runs: Sequence[Run]) -> Chart:
    """Precision by coverage, one line per run."""
    curves: list[Curve | None] = []
    for run in runs[:MAX_LINES]:
        points = thresholds(run)
        if not len(points.scores):
            curves.append(None)
            continue
        sample = np.unique(np.linspace(0, len(points.scores) - 1, _POINTS).round().astype(int))
        curves.append(Curve(points.coverage[sample], points.precision[sample]))
    return Chart(
        "Precision and coverage",
        "Predictions above a score threshold: the lower it is, the more queries get a label, and "
        "the more of the labels are wrong. Queries that show no known instance count too.",
        _draw(curves, "coverage: share of all queries with a label", "precision of the labels",
              f"Precision by coverage, {ALL_QUERIES}"),
    )  # fmt: skip


def change_chart(changes: Sequence[float], metric: str, label: str) -> Chart:
    """How much each query gained or lost, sorted; ``label`` must be unique in the page."""
    ordered = np.sort(np.array(changes, np.float64))[::-1]
    sample = np.linspace(0, len(ordered) - 1, min(len(ordered), _POINTS)).round().astype(int)

    def bars(axes: Any) -> None:
        x, heights = (sample + 0.5) / len(ordered), ordered[sample]
        gains = heights >= 0
        for mask, colour in ((gains, _LINES[0]), (~gains, _LINES[1])):
            axes.bar(x[mask], heights[mask], width=0.85 / len(sample), color=colour)
        axes.axhline(0, color=_QUIET, linewidth=0.8)
        reach = max(0.05, float(np.abs(ordered).max())) * 1.08
        axes.set_ylim(-reach, reach)

    return Chart(
        f"Change of {metric} by query",
        "One bar per query, from the largest gain to the largest loss.",
        _figure(bars, "share of the queries", f"change of {metric}", label),
    )


def growth_chart(
    title: str, x_name: str, y_name: str, lines: Sequence[tuple[Sequence[float], Sequence[float]]]
) -> Chart:
    """How a number grows with a size, on logarithmic axes; one line per (x, y) of ``lines``."""

    def plot(axes: Any) -> None:
        for number, (x, y) in enumerate(lines[:MAX_LINES]):
            colour, dashes = _LINES[number], _DASHES[number]
            axes.plot(x, y, color=colour, linestyle=dashes, marker="o", markersize=3)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        for set_ticks, (low, high) in (
            (axes.set_xticks, axes.get_xlim()),
            (axes.set_yticks, axes.get_ylim()),
        ):
            ticks = _ticks(low, high)
            set_ticks(ticks, [_short(tick) for tick in ticks])

    svg = _figure(plot, x_name, y_name, title)
    return Chart(title, f"{y_name} by {x_name}; both axes are logarithmic.", svg)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, at most ``_MAX_TICKS``, for a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= _MAX_TICKS:
            return ticks
    return ticks[:: -(-len(ticks) // _MAX_TICKS)]


def _short(number: float) -> str:
    """A round number, abbreviated: 0.2, 50, 3k, 1M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:g}{letter}"
    return f"{number:g}"


def _draw(
    curves: Sequence[Curve | None], x_name: str, y_name: str, label: str, last_rank: int = 0
) -> Markup:
    """Curves with both axes from 0 to 1; with ``last_rank``, x is a rank on a log scale."""

    def lines(axes: Any) -> None:
        # The first run is drawn last, on top of its baselines.
        for number, curve in reversed([*enumerate(curves)]):
            if curve is not None:
                style = {"color": _LINES[number], "linestyle": _DASHES[number]}
                if last_rank:  # Ranks are whole numbers.
                    style["drawstyle"] = "steps-post"
                axes.plot(curve.x, curve.y, linewidth=2 if number == 0 else 1.5, **style)
        axes.set_ylim(-0.02, 1.02)
        if last_rank:
            axes.set_xscale("log")
            axes.set_xlim(0.94, max(last_rank, 2) * 1.06)
            ticks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= max(last_rank, 2)]
            axes.set_xticks(ticks, [str(k) for k in ticks])
            axes.minorticks_off()
        else:
            axes.set_xlim(-0.01, 1.01)

    return _figure(lines, x_name, y_name, label)


def _figure(plot: Callable[[Any], None], x_name: str, y_name: str, label: str) -> Markup:
    """Draw axes as SVG; no text in it comes from users, which matplotlib might read as formulas."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 9}):
        figure = Figure(figsize=_SIZE, facecolor="none", layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.set_facecolor("none")
        axes.grid(color=_RULE, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_QUIET, length=0)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_RULE)
        plot(axes)
        axes.set_xlabel(x_name, color=_INK)
        axes.set_ylabel(y_name, color=_INK)
        buffer = io.BytesIO()
        blank = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=blank, transparent=True)
    return _inline(buffer.getvalue().decode("utf-8"), label)


def _inline(svg: str, label: str) -> Markup:
    """An SVG file as inline SVG: unique ids, the page's colours and font."""
    prefix = "c" + re.sub(r"\W+", "-", label)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->|<metadata>.*?</metadata>", "",
                 svg, flags=re.DOTALL)  # fmt: skip
    view = re.search(r'viewBox="([^"]*)"', svg)
    head = f'<svg class="chart" viewBox="{view[1] if view else ""}" role="img" '
    svg = re.sub(r"^<svg[^>]*>", lambda _: f'{head}aria-label="{escape(label)}">', svg)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'xlink:href="#|\bhref="#', f'href="#{prefix}-', svg).replace(
        "url(#", f"url(#{prefix}-"
    )
    svg = re.sub(r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font\1: \2var(--sans)", svg)
    for placeholder, colour in _THEME.items():
        svg = svg.replace(placeholder, colour)
    return Markup(svg)
