"""Pages of ``delg serve`` about benchmark runs: what there is, one run, two compared."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from delg.errors import DelgError, UsageError
from eval.reports.charts import MAX_LINES, Chart, recognition_chart, retrieval_charts
from eval.reports.compare import compare, render_comparison
from eval.reports.query_examples import Album, Example, scored_parts, example
from eval.reports.report import metric_names, metric_parts, render_report, main_part
from eval.reports.run_metadata import distinct_titles
from eval.run import BASELINES_FOLDER, METRICS_FILE, REPORT_FILE, Run, baselines, is_run, load_run
from eval.scoring import main_metric, query_metric
from index.serve.pages import ExtraPages, Pages
from index.serve.pagination import PageNumber, Pagination
from index.serve.security import POLICY
from index.serve.uploads import BadRequestError, NotFoundError

# Queries with pictures on a page, and hits of each.
EACH, HITS = 8, 10
# Runs kept in memory.
_KEPT = 16
# Folders below the given one in which runs are looked for.
_DEPTH = 4
# Charts carry their style in attributes.
_DRAWN = POLICY.replace("style-src 'self'", "style-src 'self'; style-src-attr 'unsafe-inline'")
# Reports and comparisons are whole in themselves: no script, nothing from anywhere.
_WHOLE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
_HOME = (
    '<body>\n<p class="sheet eyebrow" style="padding-top: 1.25rem">'
    '<a href="/runs">← All runs</a></p>'
)


@dataclass(frozen=True)
class Entry:
    """A run in the list; ``error`` says why it cannot be shown."""

    name: str
    run: Run | None
    error: str = ""

    @property
    def part(self) -> str | None:
        """The part whose main metric stands for the run."""
        return None if self.run is None else main_part(self.run)


class Runs:
    """The runs in a folder.

    Args:
        folder: searched a few levels deep; nothing outside it is read but photos that runs name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Run] = OrderedDict()

    def places(self) -> dict[str, Path]:
        """Name -> folder of every run."""
        found = {}
        for depth in range(_DEPTH + 1):
            for path in self._folder.glob("*/" * depth + METRICS_FILE):
                if is_run(path.parent):
                    found[path.parent.relative_to(self._folder).as_posix()] = path.parent
        return dict(sorted(found.items()))

    def get(self, name: str) -> Run:
        """A run by name.

        Raises:
            NotFoundError: there is none.
            UsageError: it is damaged.
        """
        return self._load(name, self.place(name))

    def place(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            NotFoundError: there is none.
        """
        # Only what was found can be asked for, so no name leads out of the folder.
        place = self.places().get(name)
        if place is None:
            raise NotFoundError(f"there is no run {name!r}")
        return place

    def _load(self, name: str, place: Path) -> Run:
        key = name, (place / METRICS_FILE).stat().st_mtime_ns
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        run = load_run(place)
        with self._lock:
            self._kept[key] = run
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return run

    def entries(self) -> list[Entry]:
        """All of them."""
        found = []
        for name, place in self.places().items():
            try:
                found.append(Entry(name, self._load(name, place)))
            except (DelgError, OSError) as error:
                found.append(Entry(name, None, str(error)))
        return found

    def with_baselines(self, name: str) -> list[Run]:
        """A run and the baselines that were measured along with it."""
        place = self.place(name)
        further = [] if BASELINES_FOLDER in Path(name).parts else baselines(place)
        names = [f"{name}/{BASELINES_FOLDER}/{one.name}" for one in further]
        return [self.get(name), *(self._load(n, p) for n, p in zip(names, further, strict=True))]


def run_pages(folder: Path) -> ExtraPages:
    """The pages about the runs in a folder."""
    runs = Runs(folder)
    return ExtraPages("Runs", "/runs", "eval.reports", lambda pages: _router(runs, pages))


def _router(runs: Runs, pages: Pages) -> APIRouter:
    router = APIRouter()
    style = (files("eval.reports") / "templates" / "measured.css").read_bytes()

    @router.get("/runs/measured.css")
    async def measured() -> Response:
        return Response(style, media_type="text/css")

    @router.get("/runs")
    def listing(request: Request) -> Response:
        entries = runs.entries()
        mains = {one.name: main_metric(one.run.benchmark) for one in entries if one.run}
        return pages.render(request, "serve_runs.html", entries=entries, mains=mains)

    @router.get("/runs/view")
    def view(
        request: Request, run: str, part: str = "", order: str = "worst", page: PageNumber = 1
    ) -> Response:
        shown = runs.with_baselines(run)
        parts = scored_parts(shown[0])
        if part and part not in parts:
            raise NotFoundError(f"the run has no part {part!r}")
        part = part or main_part(shown[0]) or ""
        asked = {"run": run, "part": part, "order": order}
        names = _ordered(shown[0], part, order)
        pagination = Pagination("/runs/view", asked, page, len(names), EACH)
        chosen = names[(page - 1) * EACH : page * EACH]
        answer = pages.render(
            request, "serve_run.html",
            name=run, run=shown[0], runs=shown, titles=distinct_titles(shown), part=part,
            counted=parts, order=order, main=main_metric(shown[0].benchmark),
            metric=query_metric(shown[0].benchmark), metrics=metric_names(shown),
            parts=metric_parts(shown), drawn=min(len(shown), MAX_LINES),
            charts=_charts(shown, part) if page == 1 else [],
            examples=_examples(shown[0], part, chosen), pagination=pagination,
        )  # fmt: skip
        answer.headers["content-security-policy"] = _DRAWN
        return answer

    @router.get("/runs/report")
    def report(run: str) -> Response:
        try:
            text = (runs.place(run) / REPORT_FILE).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            text = render_report(runs.with_baselines(run))
        return _whole(text)

    @router.get("/runs/compare")
    def comparison(run: Annotated[list[str], Query(default_factory=list)]) -> Response:
        if len(run) < 2:
            raise BadRequestError("choose two runs or more to compare")
        try:
            return _whole(render_comparison(compare([runs.get(name) for name in run])))
        except UsageError as error:
            raise BadRequestError(str(error)) from None

    return router


def _whole(text: str) -> Response:
    page = text.replace("<body>", _HOME, 1).encode("utf-8", "replace")
    return HTMLResponse(page, headers={"content-security-policy": _WHOLE})


def _ordered(run: Run, part: str, order: str) -> list[str]:
    """Queries of a part that have a photo, by their value, the worst first or last."""
    metric = query_metric(run.benchmark)
    values = {name: one[metric] for name, one in run.scores.queries.get(part, {}).items()}
    known = [query.id for query in run.benchmark.queries if query.id in values]
    known.sort(key=lambda name: (values[name], name), reverse=order == "best")
    return known


def _examples(run: Run, part: str, names: list[str]) -> list[Example]:
    metric = query_metric(run.benchmark)
    queries, album = {query.id: query for query in run.benchmark.queries}, Album()
    values = run.scores.queries.get(part, {})
    return [example(run, part, queries[name], values[name][metric], album, HITS) for name in names]


def _charts(runs: list[Run], part: str) -> list[Chart]:
    if not part:
        return []
    if runs[0].benchmark.protocol == "recognition":
        return [recognition_chart(runs)]
    return retrieval_charts(runs, part)
