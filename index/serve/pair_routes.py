"""Routes of pairs of photos; deciding on them, of a writable server alone."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from index.serve.descriptions import CSV, described_errors
from index.serve.downloads import csv_file
from index.serve.job_queue import never
from index.serve.pair_finder import PairFilter, Shown
from index.serve.places import client_of
from index.serve.service import Service
from index.serve.uploads import MAX_ID_LENGTH, FormParams


class PairJson(BaseModel):
    """Photos of the same thing: `a` of this index, `b` of the other one."""

    a: str
    b: str
    similarity: float
    probability: float
    inliers: int
    same_file: bool
    decision: Literal["accepted", "rejected"] | None


class PairsJson(BaseModel):
    """Pairs, the surest first. `status` is `idle` before `POST /api/pairs` has compared the photos;
    `current` says whether neither index has changed since."""

    status: Literal["idle", "working", "done", "failed"]
    progress: float
    error: str
    current: bool
    total: int
    pairs: list[PairJson]


class ComparingPairsJson(BaseModel):
    """Photos are compared in the background; `GET` says how far."""

    status: Literal["working", "done", "failed"]


class PairDecisionJson(BaseModel):
    """What was decided on a pair."""

    a: str
    b: str
    decision: Literal["accepted", "rejected"] | None


class PairParams(FormParams):
    """A pair, and what is decided on it."""

    # Name of the other index; by default this one.
    other: str = ""
    a: str = Field(max_length=MAX_ID_LENGTH)
    b: str = Field(max_length=MAX_ID_LENGTH)
    # "none" forgets what was decided before.
    verdict: Literal["accepted", "rejected", "none"]


Other = Annotated[str, Query(description="name of the other index; by default this one")]
Similarity = Annotated[float, Query(ge=-1, le=1, description="of the global descriptors")]
ShownPairs = Annotated[Shown, Query(description="which pairs, by what was decided on them")]
_LIMIT = Query(ge=1, le=10_000, description="pairs at most")
_OFFSET = Query(ge=0, le=10_000_000, description="pairs to leave out, the surest first")


def add_pair_routes(router: APIRouter, service: Service) -> None:
    """Add them."""
    finder = service.pairs

    @router.get("/api/pairs", response_model=PairsJson, responses=described_errors(404, 422))
    def pairs(
        other: Other = "",
        min_similarity: Similarity = -1.0,
        max_similarity: Similarity = 1.0,
        show: ShownPairs = "undecided",
        limit: Annotated[int, _LIMIT] = 100,
        offset: Annotated[int, _OFFSET] = 0,
    ) -> JSONResponse:
        """Photos of this index and of another one that show the same thing, or of this one alone;
        see `delg index pairs`."""
        condition = PairFilter(show, min_similarity, max_similarity)
        listing = finder.listing(other or service.name, condition, limit, offset)
        state = listing.state
        is_idle = state.value is None and not state.running and not state.error
        return JSONResponse(
            {
                "status": "idle" if is_idle else state.status,
                "progress": state.progress if state.running else float(state.value is not None),
                "error": state.error,
                "current": listing.is_current,
                "total": listing.total,
                "pairs": [vars(pair) for pair in listing.pairs],
            }
        )

    @router.get(
        "/api/pairs.csv",
        response_class=Response,
        responses={**described_errors(404, 409, 422), **CSV},
    )
    def table(
        other: Other = "",
        min_similarity: Similarity = -1.0,
        max_similarity: Similarity = 1.0,
        show: ShownPairs = "all",
    ) -> Response:
        """The pairs as `delg index pairs --csv` writes them."""
        condition = PairFilter(show, min_similarity, max_similarity)
        return csv_file(finder.csv(other or service.name, condition), "pairs")

    @router.post(
        "/api/pairs",
        status_code=202,
        response_model=ComparingPairsJson,
        responses=described_errors(404, 422),
    )
    async def compare(other: Other = "") -> Response:
        """Compare the photos, in the background."""
        return JSONResponse({"status": finder.start(other or service.name).status}, 202)

    if not service.settings.writable:
        return

    @router.post(
        "/api/pairs/decide",
        response_model=PairDecisionJson,
        responses=described_errors(404, 413, 415, 422),
    )
    async def decide(
        request: Request,
        a: Annotated[str | None, Query(description="id in this index")] = None,
        b: Annotated[str | None, Query(description="id in the other one")] = None,
        verdict: Annotated[Literal["accepted", "rejected", "none"] | None, Query()] = None,
        other: Other = "",
    ) -> Response:
        """Accept or reject a pair, or forget what was decided, by form fields or in the address."""
        upload, client = await service.form_receiver.receive(request), client_of(request.scope)
        params = PairParams.read(upload.fields)
        verdict_ = None if params.verdict == "none" else params.verdict
        await service.jobs.run(
            lambda: finder.decide(params.other or service.name, params.a, params.b, verdict_),
            never, client,
        )  # fmt: skip
        return JSONResponse({"a": params.a, "b": params.b, "decision": verdict_})
