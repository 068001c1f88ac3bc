"""Two maps of all photos: by similarity, and by where they were taken."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from index.collection.explore import Exploration
from index.serve.job_queue import never
from index.serve.places import client_of
from index.serve.saved_export import as_csv_text
from index.serve.security import POLICY
from index.serve.uploads import BadRequestError, NotFoundError

if TYPE_CHECKING:
    from index.serve.pages import Pages

# Labels with a colour of their own, and photos of a selection that are shown.
_COLOURS, _SHOWN = 8, 60
_NOT_EXPLORED = "there is no map yet: run delg index explore"
# Latitude where the Mercator projection ends.
_MAX_LATITUDE = 85.05


def make_router(pages: Pages) -> APIRouter:
    """``/map``, ``/places`` and what lies below."""
    router = APIRouter()
    service = pages.service

    def explored(version: str = "") -> Exploration:
        exploration = service.remembered.exploration()
        if exploration is None:
            raise NotFoundError(_NOT_EXPLORED)
        if version and version != version_of(exploration):
            raise BadRequestError("the map was computed anew; load the page again")
        return exploration

    def show(request: Request, kind: str) -> Response:
        exploration = service.remembered.exploration()
        with service.shared.reading() as images:
            photos = len(images)
        tiles = service.settings.tiles if kind == "places" else None
        page = pages.render(
            request, "map.html",
            kind=kind, exploration=exploration, photos=photos, folder=service.shared.path,
            version_of_map=version_of(exploration) if exploration else "",
            points=0 if exploration is None else len(_positions(exploration, kind)),
            legend=[] if kind == "places" else [name for name, _, _ in _top_labels(pages)],
            tiles=tiles or "", tiles_credit=service.settings.tiles_credit,
        )  # fmt: skip
        if tiles:
            host = urlsplit(tiles).netloc
            source = f"img-src 'self' https://{host}"
            page.headers["content-security-policy"] = POLICY.replace("img-src 'self'", source)
        return page

    @router.get("/map")
    def similarity_map(request: Request) -> Response:
        return show(request, "map")

    @router.get("/places")
    def places_map(request: Request) -> Response:
        return show(request, "places")

    @router.get("/map/points")
    def map_points(version: str) -> Response:
        return _points(explored(version), "map", _groups(pages, explored(version)))

    @router.get("/places/points")
    def places_points(version: str) -> Response:
        exploration = explored(version)
        return _points(exploration, "places", np.zeros(len(exploration), np.uint8))

    @router.get("/map/photo")
    def map_photo(at: int, version: str) -> JSONResponse:
        exploration = explored(version)
        if not 0 <= at < len(exploration):
            raise BadRequestError("at: no such point")
        with service.shared.reading() as images:
            rows = images.by_rows([int(exploration.rows[at])])
        if not rows:
            raise NotFoundError("this photo is no longer in the index")
        return JSONResponse({"id": rows[0].id, "label": rows[0].label})

    async def selected(request: Request, version: str) -> NDArray[np.int64]:
        upload = await service.receiver.receive(request)
        exploration = explored(version)
        if len(upload.data) % 4:
            raise BadRequestError("the selection must be a list of numbers of 32 bits")
        positions = np.frombuffer(upload.data, "<u4")
        if len(positions) and positions.max() >= len(exploration):
            raise BadRequestError("the selection holds points that are not on the map")
        return exploration.rows[np.unique(positions)]

    @router.post("/map/selection")
    async def selection(request: Request, version: str) -> Response:
        rows = await selected(request, version)

        def render() -> Response:
            columns = service.remembered.columns()
            present = columns.among(rows)
            with service.shared.reading() as images:
                photos = images.by_rows(present[:_SHOWN].tolist())
            return pages.render(
                request, "map_selection_fragment.html",
                images=photos, total=len(present), labels=columns.labels_among(present, 12),
            )  # fmt: skip

        return await service.jobs.run(render, never, client_of(request.scope))

    @router.post("/map/selection.csv")
    async def selection_csv(request: Request, version: str) -> Response:
        rows = await selected(request, version)
        with service.shared.reading() as images:
            photos = images.by_rows(rows.tolist())
        text = as_csv_text(("id", "label", "path"), ((r.id, r.label or "", r.path) for r in photos))
        return Response(text, media_type="text/csv")

    return router


def version_of(exploration: Exploration) -> str:
    """Differs between maps of which positions mean different photos."""
    rows = exploration.rows
    return f"{len(rows)}-{int(rows[-1]) if len(rows) else 0}-{int(rows.sum()) & 0xFFFFFFFF:x}"


def _positions(exploration: Exploration, kind: str) -> NDArray[np.intp]:
    return exploration.located if kind == "places" else np.arange(len(exploration))


def _points(exploration: Exploration, kind: str, groups: NDArray[np.uint8]) -> Response:
    """x and y (float32), positions (uint32) and groups (uint8) of all points, one after the other;
    little-endian."""
    positions = _positions(exploration, kind)
    if kind == "places":
        latitude, longitude = exploration.coordinates[positions].T
        points = np.stack([longitude / 360 + 0.5, _mercator(latitude)], 1)
    else:
        points = exploration.places[positions]
    parts = (
        points[:, 0].astype("<f4"), points[:, 1].astype("<f4"), positions.astype("<u4"),
        groups[positions],
    )  # fmt: skip
    data = b"".join(part.tobytes() for part in parts)
    return Response(data, media_type="application/octet-stream")


def _mercator(latitude: NDArray[np.float32]) -> NDArray[np.float64]:
    """The y of latitudes on a square map, 0 at the top."""
    radians = np.radians(np.clip(latitude, -_MAX_LATITUDE, _MAX_LATITUDE).astype(float))
    return 0.5 - np.log(np.tan(np.pi / 4 + radians / 2)) / (2 * np.pi)


def _top_labels(pages: Pages) -> list[tuple[str, int, list[int]]]:
    return pages.service.remembered.labels().search(limit=_COLOURS).labels


def _groups(pages: Pages, exploration: Exploration) -> NDArray[np.uint8]:
    """1 and up for photos of the most frequent labels, 0 for all others."""
    groups = np.zeros(len(exploration), np.uint8)
    labels = pages.service.remembered.labels()
    for number, (name, _, _) in enumerate(_top_labels(pages), 1):
        groups[np.isin(exploration.rows, labels.rows(name), assume_unique=True)] = number
    return groups
