"""Pairs of photos of the same thing, of two indexes or within one."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from index.serve.job_queue import never
from index.serve.pagination import PageNumber, Pagination
from index.serve.pair_finder import PairFilter
from index.serve.pair_routes import Other, PairParams, ShownPairs, Similarity
from index.serve.places import client_of
from index.serve.several import index_root
from index.serve.views.search import is_fragment

if TYPE_CHECKING:
    from index.serve.pages import Pages

PAIRS_PER_PAGE = 40


def make_router(pages: Pages) -> APIRouter:
    """``/pairs``; deciding on them, of a writable server alone."""
    router = APIRouter()
    service, finder = pages.service, pages.service.pairs

    def root_of(name: str) -> str:
        return index_root(service.indexes, name)

    @router.get("/pairs")
    def pairs(
        request: Request,
        other: Other = "",
        min_similarity: Similarity = -1.0,
        max_similarity: Similarity = 1.0,
        show: ShownPairs = "undecided",
        page: PageNumber = 1,
    ) -> Response:
        name, condition = other or service.name, PairFilter(show, min_similarity, max_similarity)
        listing = finder.listing(name, condition, PAIRS_PER_PAGE, (page - 1) * PAIRS_PER_PAGE)
        filters = {
            "other": "" if name == service.name else name,
            "min_similarity": "" if min_similarity == -1 else f"{min_similarity:g}",
            "max_similarity": "" if max_similarity == 1 else f"{max_similarity:g}",
            "show": "" if show == "undecided" else show,
        }
        return pages.render(
            request, "pairs_fragment.html" if is_fragment(request) else "pairs.html",
            listing=listing, state=listing.state, other=name, other_root=root_of(name),
            condition=condition,
            pagination=Pagination("/pairs", filters, page, listing.total, PAIRS_PER_PAGE),
        )  # fmt: skip

    @router.post("/pairs/compare")
    async def compare(request: Request) -> Response:
        upload = await service.form_receiver.receive(request)
        name = upload.fields.get("other") or service.name
        finder.start(name)
        return RedirectResponse(f"{service.root}/pairs?{urlencode({'other': name})}", 303)

    if not service.settings.writable:
        return router

    @router.post("/pairs/decide")
    async def decide(request: Request) -> Response:
        upload, client = await service.form_receiver.receive(request), client_of(request.scope)
        params = PairParams.read(upload.fields)
        name, verdict = params.other or service.name, params.verdict
        pair = await service.jobs.run(
            lambda: finder.decide(
                name, params.a, params.b, None if verdict == "none" else verdict
            ),
            never, client,
        )  # fmt: skip
        if pair is None or not is_fragment(request):
            return RedirectResponse(f"{service.root}/pairs?{urlencode({'other': name})}", 303)
        return pages.render(
            request, "pair_verdict_fragment.html", pair=pair, other=name, decided=True
        )

    return router
