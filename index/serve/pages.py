"""The pages: search, browse, and what the index is made of."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from numpy.typing import NDArray

from delg.errors import DelgError
from index.browse import Filter
from index.results import Hit
from index.serve.assets import environment, load_assets
from index.serve.duplicate_finder import Finder
from index.serve.errors import answer_to
from index.serve.security import COOKIE, is_token, session
from index.serve.service import Service
from index.serve.settings import MIB
from index.serve.uploads import Asked, BadRequestError, Upload, gone

PAGE = 48
GROUPS, GROUP_SHOWN = 20, 24
ROWS = 100
_ASKED = ("k", "rerank", "box", "orientations", "id")
# Seconds that a wrong token costs.
_PAUSE = 0.5
_MONTH = 30 * 24 * 3600

Number = Annotated[int, Query(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class MorePages:
    """Pages that another package adds.

    Attributes:
        name, path: of the one that every page leads to.
        package: that has their templates.
        make: their routes.
    """

    name: str
    path: str
    package: str
    make: Callable[[Pages], APIRouter]


class Pages:
    """Makes pages and their routes.

    Args:
        service: what they show.
        more: pages of other packages.
    """

    def __init__(self, service: Service, more: Sequence[MorePages] = ()) -> None:
        self.service = service
        self._assets = load_assets()
        self._templates = environment(self._assets, [one.package for one in more])
        self._more = more
        self._finder = Finder(service.shared)
        self._links = [
            ("Search", "/"),
            ("Browse", "/browse"),
            ("Duplicates", "/duplicates"),
            ("Failures", "/failures"),
            ("Index", "/stats"),
            *((one.name, one.path) for one in more),
        ]

    def close(self) -> None:
        """Stop what runs in the background."""
        self._finder.stop()

    def render(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """A page from a template."""
        settings = self.service.settings
        text = self._templates.get_template(template).render(
            links=self._links,
            here=request.scope["path"],
            index_name=self.service.shared.path.name,
            guarded=settings.token is not None,
            writable=settings.writable,
            **values,
        )
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    def problem(
        self, request: Request, status: int, reason: str, headers: dict[str, str]
    ) -> Response:
        """An error, as a part of a page where only that was asked for."""
        part = "hx-request" in request.headers
        page = self.render(
            request, "trouble.html" if part else "problem.html", status,
            reason=reason, missing=status == 404,
        )  # fmt: skip
        page.headers.update(headers)
        return page

    def make_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter()
        self._add_way_in(router)
        self._add_search(router)
        self._add_browsing(router)
        for one in self._more:
            router.include_router(one.make(self))
        return router

    def _add_way_in(self, router: APIRouter) -> None:
        token = self.service.settings.token

        @router.get("/static/{name}")
        async def asset(name: str) -> Response:
            found = self._assets.get(name)
            if found is None:
                return Response(status_code=404)
            headers = {"cache-control": "public, max-age=86400"}
            return Response(found.data, media_type=found.media_type, headers=headers)

        @router.get("/login")
        def login_page(request: Request, next: str = "/") -> Response:
            return self.render(request, "login.html", next=_local(next), wrong=False)

        @router.post("/login")
        async def login(request: Request) -> Response:
            form = await self.service.receiver.receive(request)
            back = _local(form.fields.get("next", "/"))
            if token is None:
                return RedirectResponse(back, 303)
            if not is_token(form.fields.get("token", "").strip(), token):
                await asyncio.sleep(_PAUSE)
                return self.render(request, "login.html", 401, next=back, wrong=True)
            answer = RedirectResponse(back, 303)
            answer.set_cookie(
                COOKIE, session(token), _MONTH, httponly=True, samesite="strict",
                secure=request.url.scheme == "https",
            )  # fmt: skip
            return answer

        @router.post("/logout")
        async def logout() -> Response:
            answer = RedirectResponse("/login", 303)
            answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
            return answer

    def _add_search(self, router: APIRouter) -> None:
        service = self.service

        @router.get("/")
        def search_page(request: Request, id: str = "") -> Response:
            row = service.image(id) if id else None
            with service.shared.reading() as images:
                facts = {
                    "photos": len(images),
                    "takes_photos": images.takes_photos,
                    "rerank": images.settings.ranking.rerank,
                    "most_bytes": service.settings.max_upload_mib * MIB,
                }
            return self.render(request, "search.html", row=row, **facts)

        @router.post("/search")
        async def search(request: Request) -> Response:
            upload = await service.receiver.receive(request)
            asked = Asked.read({n: upload.fields[n] for n in _ASKED if n in upload.fields})
            part = "hx-request" in request.headers

            def work() -> Response:
                result = service.search(upload, asked)
                matches = {hit.rank: match_json(hit) for hit in result}
                with service.shared.reading() as images:
                    photos = len(images)
                return self.render(
                    request,
                    "found.html" if part else "found_page.html",
                    result=result, asked=asked, name=asked.id or upload.name, matches=matches,
                    photos=photos,
                )  # fmt: skip

            return await service.workers.run(work, functools.partial(gone, request))

        @router.post("/outliers")
        async def outliers(request: Request) -> Response:
            upload = await service.receiver.receive(request)
            asked = Asked.read({n: upload.fields[n] for n in _ASKED if n in upload.fields})
            hit, transform = upload.fields.get("hit", ""), _transform(upload)

            def work() -> Response:
                starts, ends = service.outliers(upload, asked, hit, transform)
                return JSONResponse(np.c_[starts, ends].round(1).tolist())

            # The page's script reads a reason, where a page would show one.
            try:
                return await service.workers.run(work, functools.partial(gone, request))
            except DelgError as error:
                status, reason, headers = answer_to(error)
                return JSONResponse({"error": reason}, status, headers)

    def _add_browsing(self, router: APIRouter) -> None:
        shared = self.service.shared

        @router.get("/browse")
        def browse(
            request: Request, q: str = "", label: str = "", key: str = "", value: str = "",
            page: Number = 1,
        ) -> Response:  # fmt: skip
            wanted = Filter("ok", q.strip(), label.strip(), key.strip(), value.strip())
            with shared.reading() as images:
                found = images.browse(wanted, PAGE, (page - 1) * PAGE)
                tallies = images.tallies()
            asked = {"q": q, "label": label, "key": key, "value": value}
            return self.render(
                request, "browse.html",
                found=found, tallies=tallies, asked=asked, filtered=wanted != Filter(),
                turner=Turner("/browse", asked, page, found.total, PAGE),
            )  # fmt: skip

        @router.get("/image")
        def image(request: Request, id: str) -> Response:
            return self.render(request, "image.html", row=self.service.image(id))

        @router.get("/failures")
        def failures(request: Request, q: str = "", page: Number = 1) -> Response:
            with shared.reading() as images:
                found = images.browse(Filter("failed", q.strip()), ROWS, (page - 1) * ROWS)
                tallies = images.tallies(20)
            turner = Turner("/failures", {"q": q}, page, found.total, ROWS)
            return self.render(
                request, "failures.html", found=found, tallies=tallies, q=q, turner=turner
            )

        @router.get("/duplicates")
        def duplicates(request: Request, page: Number = 1) -> Response:
            finding = self._finder.look()
            groups = finding.found.groups if finding.found else ()
            chosen = groups[(page - 1) * GROUPS : page * GROUPS]
            with shared.reading() as images:
                known = {one: images.image(one) for group in chosen for one in group.ids}
            part = "hx-request" in request.headers
            return self.render(
                request, "duplicates_part.html" if part else "duplicates.html",
                finding=finding, groups=chosen, known=known, shown=GROUP_SHOWN,
                turner=Turner("/duplicates", {}, page, len(groups), GROUPS),
            )  # fmt: skip

        @router.get("/stats")
        def stats(request: Request) -> Response:
            with shared.reading() as images:
                tallies = images.tallies(200)
            return self.render(request, "stats.html", facts=self.service.stats(), tallies=tallies)

        @router.get("/api")
        def api(request: Request) -> Response:
            return self.render(request, "api.html", base=str(request.base_url).rstrip("/"))


class Turner:
    """Turns pages.

    Attributes:
        page, last: numbers from 1.
        first, final: of the entries on this page, from 1; both 0 where there are none.
    """

    def __init__(self, path: str, asked: dict[str, str], page: int, total: int, each: int) -> None:
        self._path, self._asked = path, {k: v for k, v in asked.items() if v}
        self.page, self.total = page, total
        self.last = max(1, -(-total // each))
        self.first = (page - 1) * each + 1 if total > (page - 1) * each else 0
        self.final = min(total, page * each) if self.first else 0

    def to(self, page: int) -> str:
        """The address of another page."""
        query = urlencode({**self._asked, **({"page": page} if page > 1 else {})})
        return f"{self._path}?{query}" if query else self._path


def match_json(hit: Hit) -> dict[str, Any]:
    """What the match view draws: points as [x, y, x, y], in pixels of query and hit."""
    return {
        "id": hit.id,
        "rank": hit.rank,
        "width": hit.width,
        "height": hit.height,
        "verified": hit.verified,
        "points": np.c_[hit.query_points, hit.points].round(1).tolist(),
        "transform": None if hit.transform is None else hit.transform.tolist(),
    }


def _transform(upload: Upload) -> NDArray[np.float64] | None:
    text = upload.fields.get("transform") or "null"
    try:
        value = json.loads(text)
        if value is None:
            return None
        matrix = np.array(value, np.float64)
    except (ValueError, TypeError, RecursionError):
        raise BadRequestError("transform: not a matrix as JSON") from None
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise BadRequestError("transform: needs three rows of three finite numbers")
    return matrix


def _local(path: str) -> str:
    """A path of this server; anything else leads to the first page."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if plain else "/"
