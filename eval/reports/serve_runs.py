"""Pages of ``delg serve`` about benchmark runs: the list, a run, a comparison."""

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
from eval.reports.compare import compare
from eval.reports.comparison_page import render_comparison
from eval.reports.query_examples import Album, Example, example, scored_parts
from eval.reports.report import main_part, metric_names, metric_parts, render_report
from eval.reports.run_metadata import distinct_titles
from eval.run import BASELINES_FOLDER, METRICS_FILE, REPORT_FILE, Run, baselines, is_run, load_run
from eval.scoring import main_metric, query_metric
from index.serve.pages import ExtraPages, Pages
from index.serve.pagination import PageNumber, Pagination
from index.serve.security import POLICY
from index.serve.uploads import BadRequestError, NotFoundError

# Queries with pictures on a page, and hits of each.
EACH, HITS = 8, 10
# Runs cached in memory.
_CACHED = 16
# Levels of folders in which runs are searched.
_DEPTH = 4
# Charts carry their style in attributes.
_CHART_POLICY = POLICY.replace(
    "style-src 'self'", "style-src 'self'; style-src-attr 'unsafe-inline'"
)
# Reports and comparisons are self-contained: no scripts, nothing from elsewhere.
_STANDALONE_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
)
_HOME = (
    '<body>\n<nav class="sheet eyebrow" style="padding-top: 1.25rem">'
    '<a href="/runs" style="display: inline-block; line-height: 1.5rem">← All runs</a></nav>'
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
        folder: searched a few levels deep; nothing outside it is read, except photos that runs
            name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, int], Run] = OrderedDict()

    def folders(self) -> dict[str, Path]:
        """Name -> folder of every run."""
        folders = {}
        for depth in range(_DEPTH + 1):
            for path in self._folder.glob("*/" * depth + METRICS_FILE):
                if is_run(path.parent):
                    folders[path.parent.relative_to(self._folder).as_posix()] = path.parent
        return dict(sorted(folders.items()))

    def get(self, name: str) -> Run:
        """A run by name.

        Raises:
            NotFoundError: there is no such run.
            UsageError: it is damaged.
        """
        return self._load(name, self.folder(name))

    def folder(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            NotFoundError: there is no such run.
        """
        # Names are only looked up in the list, so none leads out of the folder.
        folder = self.folders().get(name)
        if folder is None:
            raise NotFoundError(f"there is no run {name!r}")
        return folder

    def _load(self, name: str, folder: Path) -> Run:
        key = name, (folder / METRICS_FILE).stat().st_mtime_ns
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        run = load_run(folder)
        with self._lock:
            self._cache[key] = run
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return run

    def entries(self) -> list[Entry]:
        """All runs, also those that cannot be read."""
        entries = []
        for name, folder in self.folders().items():
            try:
                entries.append(Entry(name, self._load(name, folder)))
            except (DelgError, OSError) as error:
                entries.append(Entry(name, None, str(error)))
        return entries

    def with_baselines(self, name: str) -> list[Run]:
        """A run and the baselines that were evaluated along with it."""
        folder = self.folder(name)
        is_baseline = BASELINES_FOLDER in Path(name).parts
        paths = [] if is_baseline else baselines(folder)
        names = [f"{name}/{BASELINES_FOLDER}/{path.name}" for path in paths]
        return [self.get(name), *(self._load(n, p) for n, p in zip(names, paths, strict=True))]


def run_pages(folder: Path) -> ExtraPages:
    """The pages about the runs in a folder."""
    runs = Runs(folder)
    return ExtraPages("Runs", "/runs", "eval.reports", lambda pages: _router(runs, pages))


def _router(runs: Runs, pages: Pages) -> APIRouter:
    router = APIRouter()
    style = (files("eval.reports") / "templates" / "report.css").read_bytes()

    @router.get("/runs/report.css")
    async def stylesheet() -> Response:
        return Response(style, media_type="text/css")

    @router.get("/runs")
    def listing(request: Request) -> Response:
        entries = runs.entries()
        mains = {entry.name: main_metric(entry.run.benchmark) for entry in entries if entry.run}
        return pages.render(request, "serve_runs.html", entries=entries, mains=mains)

    @router.get("/runs/view")
    def view(
        request: Request, run: str, part: str = "", order: str = "worst", page: PageNumber = 1
    ) -> Response:
        group = runs.with_baselines(run)
        main = group[0]
        parts = scored_parts(main)
        if part and part not in parts:
            raise NotFoundError(f"the run has no part {part!r}")
        part = part or main_part(main) or ""
        parameters = {"run": run, "part": part, "order": order}
        names = _ordered(main, part, order)
        first = (page - 1) * EACH
        pagination = Pagination("/runs/view", parameters, page, len(names), EACH)
        response = pages.render(
            request, "serve_run.html",
            name=run, run=main, runs=group, titles=distinct_titles(group), part=part,
            scored_parts=parts, order=order, main=main_metric(main.benchmark),
            metric=query_metric(main.benchmark), metrics=metric_names(group),
            parts=metric_parts(group), drawn=min(len(group), MAX_LINES),
            charts=_charts(group, part) if page == 1 else [],
            examples=_examples(main, part, names[first : first + EACH]), pagination=pagination,
        )  # fmt: skip
        response.headers["content-security-policy"] = _CHART_POLICY
        return response

    @router.get("/runs/report")
    def report(run: str) -> Response:
        try:
            text = (runs.folder(run) / REPORT_FILE).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            text = render_report(runs.with_baselines(run))
        return _standalone(text)

    @router.get("/runs/compare")
    def comparison(run: Annotated[list[str], Query(default_factory=list)]) -> Response:
        if len(run) < 2:
            raise BadRequestError("select two or more runs to compare")
        try:
            return _standalone(render_comparison(compare([runs.get(name) for name in run])))
        except UsageError as error:
            raise BadRequestError(str(error)) from None

    return router


def _standalone(text: str) -> Response:
    page = text.replace("<body>", _HOME, 1).encode("utf-8", "replace")
    return HTMLResponse(page, headers={"content-security-policy": _STANDALONE_POLICY})


def _ordered(run: Run, part: str, order: str) -> list[str]:
    """Queries of a part by their value, the worst first or last."""
    metric = query_metric(run.benchmark)
    values = {name: row[metric] for name, row in run.scores.queries.get(part, {}).items()}
    names = [query.id for query in run.benchmark.queries if query.id in values]
    return sorted(names, key=lambda name: (values[name], name), reverse=order == "best")


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
