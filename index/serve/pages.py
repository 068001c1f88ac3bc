"""The web pages: search, browse, duplicates, failures, statistics."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from numpy.typing import NDArray

from delg.errors import DelgError
from index.browse import Filter
from index.results import Hit, as_percent
from index.serve.assets import load_assets, make_environment
from index.serve.duplicate_finder import DuplicateFinder
from index.serve.errors import error_response
from index.serve.pagination import PageNumber, Pagination
from index.serve.places import client_of
from index.serve.security import COOKIE, is_token, session_value
from index.serve.service import Service
from index.serve.settings import MIB
from index.serve.uploads import BadRequestError, SearchParams, Upload, disconnected
from index.storage.ann_index import KIND_DESCRIPTIONS

# Entries per page, and photos of one group of duplicates that are shown.
PHOTOS_PER_PAGE, GROUPS_PER_PAGE, FAILURES_PER_PAGE = 48, 20, 100
GROUP_PHOTOS = 24
# Labels, metadata keys and reasons that are counted.
_MAX_COUNTS = 200
# Seconds until a wrong token is answered, against guessing.
_WRONG_TOKEN_DELAY = 0.5
_SESSION_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class ExtraPages:
    """Pages that another package adds.

    Attributes:
        name, path: of the entry in the navigation.
        package: the Python package with their templates.
        make_router: their routes.
    """

    name: str
    path: str
    package: str
    make_router: Callable[[Pages], APIRouter]


class Pages:
    """Renders the pages, and defines their routes.

    Args:
        service: the index and its operations.
        extra_pages: pages of other packages.
    """

    def __init__(self, service: Service, extra_pages: Sequence[ExtraPages] = ()) -> None:
        self.service = service
        self._assets = load_assets()
        self._templates = make_environment(self._assets, [pages.package for pages in extra_pages])
        self._extra_pages = extra_pages
        self._duplicates = DuplicateFinder(service.shared)
        self._links = [
            ("Search", "/"),
            ("Browse", "/browse"),
            ("Duplicates", "/duplicates"),
            ("Failures", "/failures"),
            ("Statistics", "/stats"),
            *((pages.name, pages.path) for pages in extra_pages),
        ]

    def close(self) -> None:
        """Stop the background search for duplicates."""
        self._duplicates.stop()

    def render(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """A page from a template."""
        settings = self.service.settings
        text = self._templates.get_template(template).render(
            links=self._links,
            here=request.scope["path"],
            index_name=self.service.shared.path.name,
            needs_token=settings.token is not None,
            writable=settings.writable,
            **values,
        )
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    def error(
        self, request: Request, status: int, reason: str, headers: dict[str, str]
    ) -> Response:
        """An error page, or the error alone where a fragment was requested."""
        template = "error_fragment.html" if _is_htmx(request) else "error.html"
        page = self.render(request, template, status, reason=reason, missing=status == 404)
        page.headers.update(headers)
        return page

    def make_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter()
        self._add_static_routes(router)
        self._add_login_routes(router)
        self._add_search_routes(router)
        self._add_browse_routes(router)
        for pages in self._extra_pages:
            router.include_router(pages.make_router(self))
        return router

    def _add_static_routes(self, router: APIRouter) -> None:
        @router.get("/static/{name}")
        async def static_file(name: str) -> Response:
            asset = self._assets.get(name)
            if asset is None:
                return Response(status_code=404)
            headers = {"cache-control": "public, max-age=86400"}
            return Response(asset.data, media_type=asset.media_type, headers=headers)

    def _add_login_routes(self, router: APIRouter) -> None:
        token = self.service.settings.token

        @router.get("/login")
        def login_page(request: Request, next: str = "/") -> Response:
            return self.render(request, "login.html", next=_local_path(next), wrong=False)

        @router.post("/login")
        async def login(request: Request) -> Response:
            form = await self.service.login_receiver.receive(request)
            target = _local_path(form.fields.get("next", "/"))
            if token is None:
                return RedirectResponse(target, 303)
            if not is_token(form.fields.get("token", "").strip(), token):
                await asyncio.sleep(_WRONG_TOKEN_DELAY)
                return self.render(request, "login.html", 401, next=target, wrong=True)
            response = RedirectResponse(target, 303)
            response.set_cookie(
                COOKIE, session_value(token), _SESSION_SECONDS, httponly=True, samesite="strict",
                secure=request.url.scheme == "https",
            )  # fmt: skip
            return response

        @router.post("/logout")
        async def logout() -> Response:
            response = RedirectResponse("/login", 303)
            response.delete_cookie(COOKIE, httponly=True, samesite="strict")
            return response

    def _add_search_routes(self, router: APIRouter) -> None:
        service = self.service

        @router.get("/")
        def search_page(request: Request, id: str = "") -> Response:
            row = service.image(id) if id else None
            with service.shared.reading() as images:
                values = {
                    "photos": len(images),
                    "accepts_photos": images.accepts_images,
                    "rerank": images.settings.ranking.rerank,
                    "max_bytes": service.settings.max_upload_mib * MIB,
                }
            return self.render(request, "search.html", row=row, **values)

        @router.post("/search")
        async def search(request: Request) -> Response:
            upload = await service.receiver.receive(request)
            params = SearchParams.read(upload.fields)
            is_htmx = _is_htmx(request)

            def render_results() -> Response:
                result = service.search(upload, params)
                matches = {hit.rank: match_json(hit) for hit in result}
                with service.shared.reading() as images:
                    photos = len(images)
                    min_probability = as_percent(images.settings.verification.min_probability)
                return self.render(
                    request,
                    "search_results_fragment.html" if is_htmx else "search_results.html",
                    result=result, name=params.id or upload.name, matches=matches, photos=photos,
                    min_probability=min_probability,
                )  # fmt: skip

            has_gone = functools.partial(disconnected, request)
            return await service.jobs.run(render_results, has_gone, client_of(request.scope))

        @router.post("/outliers")
        async def outliers(request: Request) -> Response:
            upload = await service.receiver.receive(request)
            params = SearchParams.read(upload.fields)
            hit_id, transform = upload.fields.get("hit", ""), _read_transform(upload)

            def list_outliers() -> Response:
                query_points, hit_points = service.outliers(upload, params, hit_id, transform)
                return JSONResponse(np.c_[query_points, hit_points].round(1).tolist())

            has_gone = functools.partial(disconnected, request)
            # The page's script reads errors as JSON.
            try:
                return await service.jobs.run(list_outliers, has_gone, client_of(request.scope))
            except DelgError as error:
                status, reason, headers = error_response(error)
                return JSONResponse({"error": reason}, status, headers)

    def _add_browse_routes(self, router: APIRouter) -> None:
        shared = self.service.shared

        @router.get("/browse")
        def browse(
            request: Request, q: str = "", label: str = "", key: str = "", value: str = "",
            page: PageNumber = 1,
        ) -> Response:  # fmt: skip
            condition = Filter("ok", q.strip(), label.strip(), key.strip(), value.strip())
            offset = (page - 1) * PHOTOS_PER_PAGE
            with shared.reading() as images:
                selection = images.browse(condition, PHOTOS_PER_PAGE, offset)
                counts = images.counts()
            filters = {"q": q, "label": label, "key": key, "value": value}
            return self.render(
                request, "browse.html",
                selection=selection, counts=counts, filters=filters,
                is_filtered=condition != Filter(),
                pagination=Pagination("/browse", filters, page, selection.total, PHOTOS_PER_PAGE),
            )  # fmt: skip

        @router.get("/image")
        def image(request: Request, id: str) -> Response:
            return self.render(request, "image.html", row=self.service.image(id))

        @router.get("/failures")
        def failures(request: Request, q: str = "", page: PageNumber = 1) -> Response:
            condition, offset = Filter("failed", q.strip()), (page - 1) * FAILURES_PER_PAGE
            with shared.reading() as images:
                selection = images.browse(condition, FAILURES_PER_PAGE, offset)
                counts = images.counts(20)
            return self.render(
                request, "failures.html",
                selection=selection, counts=counts, q=q,
                pagination=Pagination(
                    "/failures", {"q": q}, page, selection.total, FAILURES_PER_PAGE
                ),
            )  # fmt: skip

        @router.get("/duplicates")
        def duplicates(request: Request, page: PageNumber = 1) -> Response:
            search = self._duplicates.current()
            groups = search.duplicates.groups if search.duplicates else ()
            on_page = groups[(page - 1) * GROUPS_PER_PAGE : page * GROUPS_PER_PAGE]
            with shared.reading() as images:
                rows = {image_id: images.image(image_id) for g in on_page for image_id in g.ids}
            template = "duplicates_fragment.html" if _is_htmx(request) else "duplicates.html"
            return self.render(
                request, template,
                search=search, groups=on_page, rows=rows, group_photos=GROUP_PHOTOS,
                pagination=Pagination("/duplicates", {}, page, len(groups), GROUPS_PER_PAGE),
            )  # fmt: skip

        @router.get("/stats")
        def stats(request: Request) -> Response:
            with shared.reading() as images:
                counts = images.counts(_MAX_COUNTS)
            stats = self.service.stats()
            shortlist = KIND_DESCRIPTIONS[stats["shortlist"]]
            return self.render(
                request, "stats.html", stats=stats, shortlist=shortlist, counts=counts
            )

        @router.get("/api")
        def api(request: Request) -> Response:
            return self.render(request, "api.html", base=str(request.base_url).rstrip("/"))


def match_json(hit: Hit) -> dict[str, Any]:
    """The values that the match view draws: points as [x, y, x, y], in pixels of query and hit."""
    return {
        "id": hit.id,
        "rank": hit.rank,
        "width": hit.width,
        "height": hit.height,
        "verified": hit.verified,
        "percent": hit.percent,
        "points": np.c_[hit.query_points, hit.points].round(1).tolist(),
        "transform": None if hit.transform is None else hit.transform.tolist(),
    }


def _read_transform(upload: Upload) -> NDArray[np.float64] | None:
    text = upload.fields.get("transform") or "null"
    try:
        value = json.loads(text)
        if value is None:
            return None
        matrix = np.array(value, np.float64)
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise BadRequestError("transform: not a matrix in JSON") from None
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise BadRequestError("transform: must have three rows of three finite numbers")
    return matrix


def _is_htmx(request: Request) -> bool:
    """Whether a page's script requests a fragment of a page."""
    return "hx-request" in request.headers


def _local_path(path: str) -> str:
    """The path if it belongs to this server, so that nobody is led elsewhere; otherwise ``/``."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if plain else "/"
