"""Curves over queries, drawn by matplotlib as SVG that a page holds and colours by its theme."""

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

from eval.benchmark import IGNORED_PART, ALL_QUERIES, RecognitionTruth
from eval.metrics import precision_recall_curve, rank_predictions, recall_curve
from eval.reports.query_examples import ranking_of, right_and_ignored
from eval.run import Run
from eval.scoring import query_metric

# So many lines have a colour and dashes of their own.
MAX_LINES = 6
# Points of a curve that the eye can tell apart.
_POINTS = 400
# The farthest rank of recall@k.
_LAST_RANK = 100
# Stand-ins that become the page's colours, so that charts follow light and dark.
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
# Round numbers on a logarithmic axis: the first of these steps of a decade that give so few.
_STEPS, _MOST_TICKS = ((1, 2, 5), (1, 3), (1,)), 6


@dataclass(frozen=True)
class Curve:
    """One line: float64 (N,) each."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Chart:
    """A drawn chart, with its heading and what it tells."""

    title: str
    note: str
    svg: Markup


def _answers(run: Run, part: str) -> tuple[dict[str, list[str]], dict[str, frozenset[str]]]:
    """Rankings without ignored images, and right images, of the queries that count."""
    rankings, relevant = {}, {}
    for query in run.scores.queries.get(part, {}):
        right, ignored = right_and_ignored(run.benchmark, part, query)
        relevant[query] = right
        ids = ranking_of(run, part, query).ids
        rankings[query] = [image for image in ids if image not in ignored]
    return rankings, relevant


def retrieval_charts(runs: Sequence[Run], part: str) -> list[Chart]:
    """AP by query, precision-recall and recall@k of one part, a line for each run.

    The first ``MAX_LINES`` runs are drawn.
    """
    asked = [(run, *_answers(run, part)) for run in runs[:MAX_LINES]]
    metric = query_metric(runs[0].benchmark)
    last = min(_LAST_RANK, runs[0].benchmark.depth or _LAST_RANK)
    ks = range(1, last + 1)
    sorted_values: list[Curve | None] = []
    precisions: list[Curve | None] = []
    recalls: list[Curve | None] = []
    for run, rankings, relevant in asked:
        values = [one[metric] for one in run.scores.queries.get(part, {}).values()]
        sorted_values.append(_falling(values) if values else None)
        if not relevant:
            precisions.append(None)
            recalls.append(None)
            continue
        precisions.append(Curve(*precision_recall_curve(rankings, relevant)))
        reached = recall_curve(rankings, relevant, ks)
        recalls.append(Curve(np.array(ks, np.float64), reached))
    return [
        Chart(
            f"{metric} by query",
            "Each run's queries from its best to its worst: the steeper the fall, the more "
            "unlike the queries.",
            _draw(sorted_values, "part of the queries", metric, f"{metric} by query, {part}"),
        ),
        Chart(
            "Precision and recall",
            "Interpolated precision, mean over queries; what a ranking never finds counts as "
            "precision 0.",
            _draw(precisions, "recall", "precision", f"Precision by recall, {part}"),
        ),
        Chart(
            "Recall@k",
            "Part of the queries with anything right among the first k hits.",
            _draw(recalls, "k", "recall@k", f"Recall at k, {part}", last),
        ),
    ]


def _falling(values: Sequence[float]) -> Curve:
    ordered = np.sort(np.array(values, np.float64))[::-1]
    ends = np.arange(len(ordered) + 1) / len(ordered)
    if len(ordered) > _POINTS:
        chosen = np.linspace(0, len(ordered) - 1, _POINTS).round().astype(int)
        return Curve((chosen + 0.5) / len(ordered), ordered[chosen])
    # Steps, a query wide: few queries should look like few.
    return Curve(np.repeat(ends, 2)[1:-1], np.repeat(ordered, 2))


@dataclass(frozen=True)
class Thresholds:
    """What each score threshold gives, from the highest: float64 (N,) each.

    Attributes:
        scores: the threshold.
        coverage: part of all queries that are answered.
        precision: part of these answers that are right.
    """

    scores: NDArray[np.float64]
    coverage: NDArray[np.float64]
    precision: NDArray[np.float64]


def thresholds(run: Run) -> Thresholds:
    """Precision and coverage of a recognition run by score threshold."""
    # The queries that the whole counts: its parts without the ignored one.
    truth = {
        query: one.labels
        for query, one in run.benchmark.truth.items()
        if isinstance(one, RecognitionTruth) and one.part != IGNORED_PART
    }
    answers = {q: one for q, one in run.predictions.labels.items() if q in truth}
    correct, _ = rank_predictions(answers, truth)
    scores = np.sort([one[1] for one in answers.values() if one is not None])[::-1]
    scores = scores.astype(np.float64)
    # Answers of one score are given together or not at all.
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, len(scores) > 0))
    answered = np.arange(1, len(scores) + 1)
    precision = np.cumsum(correct) / answered
    return Thresholds(scores[ends], answered[ends] / max(len(truth), 1), precision[ends])


def recognition_chart(runs: Sequence[Run]) -> Chart:
    """Precision by coverage, a line for each run."""
    curves: list[Curve | None] = []
    for run in runs[:MAX_LINES]:
        found = thresholds(run)
        some = np.unique(np.linspace(0, len(found.scores) - 1, _POINTS).round().astype(int))
        curves.append(
            Curve(found.coverage[some], found.precision[some]) if len(found.scores) else None
        )
    return Chart(
        "Precision and coverage",
        "Answer only above a score: the lower the threshold, the more queries are answered, "
        "and the more of the answers are wrong. Queries that show nothing known count too.",
        _draw(curves, "coverage: part of all queries answered", "precision of the answers",
              f"Precision by coverage, {ALL_QUERIES}"),
    )  # fmt: skip


def change_chart(changes: Sequence[float], metric: str, label: str) -> Chart:
    """How much each query gained or lost, sorted; ``label`` is of its own in the page."""
    ordered = np.sort(np.array(changes, np.float64))[::-1]
    some = np.linspace(0, len(ordered) - 1, min(len(ordered), _POINTS)).round().astype(int)

    def bars(axes: Any) -> None:
        x = (some + 0.5) / len(ordered)
        gained = ordered[some] >= 0
        for chosen, colour in ((gained, _LINES[0]), (~gained, _LINES[1])):
            axes.bar(x[chosen], ordered[some][chosen], width=0.85 / len(some), color=colour)
        axes.axhline(0, color=_QUIET, linewidth=0.8)
        reach = max(0.05, float(np.abs(ordered).max())) * 1.08
        axes.set_ylim(-reach, reach)

    return Chart(
        f"Change of {metric} by query",
        "A bar for each query, from the largest gain to the largest loss.",
        _figure(bars, "part of the queries", f"change of {metric}", label),
    )


def growth_chart(
    title: str, x_name: str, y_name: str, lines: Sequence[tuple[Sequence[float], Sequence[float]]]
) -> Chart:
    """How numbers grow with a size, on logarithmic axes; a line for each (x, y) of ``lines``."""

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

    drawn = _figure(plot, x_name, y_name, title)
    return Chart(title, f"{y_name} by {x_name}; both axes are logarithmic.", drawn)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, at most ``_MOST_TICKS``, for a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        found = [step * 10.0**decade for decade in decades for step in steps]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= _MOST_TICKS:
            return found
    return found[:: -(-len(found) // _MOST_TICKS)]


def _short(number: float) -> str:
    """A round number in few letters: 0.2, 50, 3k, 1M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:g}{letter}"
    return f"{number:g}"


def _draw(
    curves: Sequence[Curve | None], x_name: str, y_name: str, label: str, last_rank: int = 0
) -> Markup:
    """Curves with both axes from 0 to 1; x in ranks, on a log scale, if there is a last one."""

    def lines(axes: Any) -> None:
        # The run itself comes first and is drawn last, on top of its baselines.
        for number, curve in reversed([*enumerate(curves)]):
            if curve is not None:
                style = {"color": _LINES[number], "linestyle": _DASHES[number]}
                if last_rank:  # Between two ranks there is nothing.
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
    """Draw axes as SVG; every text in it is ours, so that no title is taken for a formula."""
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
    """An SVG file as a part of a page: ids of its own, the page's colours and font."""
    mark = "c" + re.sub(r"\W+", "-", label)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->|<metadata>.*?</metadata>", "",
                 svg, flags=re.DOTALL)  # fmt: skip
    view = re.search(r'viewBox="([^"]*)"', svg)
    head = f'<svg class="chart" viewBox="{view[1] if view else ""}" role="img" '
    svg = re.sub(r"^<svg[^>]*>", lambda _: f'{head}aria-label="{escape(label)}">', svg)
    svg = re.sub(r'\bid="', f'id="{mark}-', svg)
    svg = re.sub(r'xlink:href="#|\bhref="#', f'href="#{mark}-', svg).replace(
        "url(#", f"url(#{mark}-"
    )
    svg = re.sub(r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font\1: \2var(--sans)", svg)
    for stand_in, colour in _THEME.items():
        svg = svg.replace(stand_in, colour)
    return Markup(svg)
