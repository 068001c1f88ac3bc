"""The search page, its results, and the outliers of the match view."""

from __future__ import annotations

import contextlib
import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from delg.errors import DelgError
from index.results import Hit, QueryResult, as_percent
from index.serve.errors import error_response
from index.serve.places import client_of
from index.serve.service import Service
from index.serve.settings import MIB
from index.serve.uploads import (
    MAX_PHOTOS,
    BadRequestError,
    NotFoundError,
    SearchParams,
    Upload,
    disconnected,
)

if TYPE_CHECKING:
    from index.serve.pages import Pages

# Photos of the index to begin with, where nobody has a photo at hand.
_EXAMPLES = 6
# Of a matched part, added on each side; and the share of a photo that is most of it.
_PART_MARGIN, _MOST = 0.1, 0.6


def make_router(pages: Pages) -> APIRouter:
    """``/``, ``/search`` and ``/outliers``."""
    router = APIRouter()
    service = pages.service

    @router.get("/")
    def search_page(request: Request, id: str = "", saved: str = "") -> Response:
        row = service.image(id) if id else None
        saved_search = None
        # The page's script says so where there is none any more.
        with contextlib.suppress(NotFoundError):
            saved_search = service.saved.get(saved) if saved else None
        rows = [] if row else _example_rows(service)
        with service.shared.reading() as images:
            values: dict[str, Any] = {
                "photos": len(images),
                "accepts_photos": images.accepts_images,
                "rerank": images.settings.ranking.rerank,
                "saved": saved_search.query_json() if saved_search else None,
                "max_bytes": service.settings.max_upload_mib * MIB,
                "examples": [image for image in images.by_rows(rows) if image.path],
            }
        return pages.render(request, "search.html", row=row, **values)

    @router.post("/search")
    async def search(request: Request) -> Response:
        upload = await service.receiver.receive(request, MAX_PHOTOS)
        params = SearchParams.read(upload.fields)

        def render_results() -> Response:
            result = service.search(upload, params)
            template = "search_results_fragment" if is_fragment(request) else "search_results"
            return pages.render(
                request, f"{template}.html",
                can_save=service.saved.limits.searches > 0 and is_fragment(request),
                **result_values(service, result, params.id or upload.name),
            )  # fmt: skip

        has_gone = functools.partial(disconnected, request)
        return await service.jobs.run(render_results, has_gone, client_of(request.scope))

    @router.get("/facets")
    def facets(request: Request) -> Response:
        facets = service.remembered.facets()
        return pages.render(request, "facets_fragment.html", facets=facets.counts)

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

    return router


def _example_rows(service: Service) -> list[int]:
    """Row numbers of photos all over the index, but of no plain walls."""
    plain = service.remembered.plain()
    rows = [row for row in service.remembered.columns().spread(4 * _EXAMPLES) if row not in plain]
    return rows[:: max(1, len(rows) // _EXAMPLES)][:_EXAMPLES]


def result_values(service: Service, result: QueryResult, name: str) -> dict[str, Any]:
    """What the template of results needs."""
    with service.shared.reading() as images:
        photos, settings = len(images), images.settings
    return {
        "result": result,
        "answer": result.answer(),
        "name": name,
        "matches": {hit.rank: match_json(hit) for hit in result},
        "parts": {hit.rank: matched_part(hit) for hit in result},
        "photos": photos,
        "min_probability": as_percent(settings.verification.min_probability),
    }


def is_fragment(request: Request) -> bool:
    """Whether a page's script requests a part of a page."""
    return "hx-request" in request.headers


def match_json(hit: Hit) -> dict[str, Any]:
    """The values that the match view draws: points as [x, y, x, y], in pixels of query and hit, and
    the part of the hit that matched."""
    return {
        "id": hit.id,
        "rank": hit.rank,
        "photo": hit.photo,
        "width": hit.width,
        "height": hit.height,
        "verified": hit.verified,
        "percent": hit.percent,
        "points": np.c_[hit.query_points, hit.points].round(1).tolist(),
        "region": hit.region,
        "transform": None if hit.transform is None else hit.transform.tolist(),
    }


def matched_part(hit: Hit) -> str:
    """The part of a verified hit that matched, as X,Y,WIDTH,HEIGHT; empty where it is most of the
    photo."""
    if not hit.verified or not len(hit.points) or not hit.width:
        return ""
    low, high = hit.points.min(axis=0), hit.points.max(axis=0)
    margin = _PART_MARGIN * (high - low)
    x, y = np.maximum(low - margin, 0)
    right, bottom = np.minimum(high + margin, (hit.width, hit.height))
    width, height = right - x, bottom - y
    is_most = width * height > _MOST * hit.width * hit.height
    return "" if is_most else f"{x:.0f},{y:.0f},{width:.0f},{height:.0f}"


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
