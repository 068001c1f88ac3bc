"""What all web pages share: templates, static files, navigation. The pages are in ``views``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from index.serve.assets import load_assets, make_environment
from index.serve.service import Service
from index.serve.several import index_root
from index.serve.views import (
    batch,
    browse,
    duplicates,
    groups,
    labels,
    login,
    maps,
    pairs,
    saved,
    search,
    stats,
    trash,
)

_VIEWS = (
    login, search, saved, batch, browse, labels, maps, stats, trash, duplicates, groups, pairs
)  # fmt: skip


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
        self._templates = make_environment(
            self._assets, [pages.package for pages in extra_pages], service.root
        )
        self._extra_pages = extra_pages
        self._links = [
            ("Search", "/"),
            ("Browse", "/browse"),
            ("Labels", "/labels"),
            ("Map", "/map"),
            ("Saved", "/searches"),
        ]
        self._more = [
            ("Batch", "/batch"),
            ("Places", "/places"),
            ("Groups", "/groups"),
            ("Pairs", "/pairs"),
            ("Duplicates", "/duplicates"),
            ("Failures", "/failures"),
            ("Trash", "/trash"),
            ("Changes", "/changes"),
            ("Statistics", "/stats"),
            ("API", "/api"),
            *((pages.name, pages.path) for pages in extra_pages),
        ]

    def render(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """A page from a template."""
        settings = self.service.settings
        text = self._templates.get_template(template).render(
            links=self._links,
            more=self._more,
            here=request.scope["path"],
            index_name=self.service.name,
            indexes=[
                (name, index_root(self.service.indexes, name)) for name in self.service.indexes
            ],
            needs_token=settings.token is not None,
            writable=settings.writable,
            **values,
        )
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    def error(
        self, request: Request, status: int, reason: str, headers: dict[str, str]
    ) -> Response:
        """An error page, or the error alone where a fragment was requested."""
        template = "error_fragment.html" if search.is_fragment(request) else "error.html"
        page = self.render(request, template, status, reason=reason, missing=status == 404)
        page.headers.update(headers)
        return page

    def make_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter()
        self._add_static_routes(router)
        for view in _VIEWS:
            router.include_router(view.make_router(self))
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
