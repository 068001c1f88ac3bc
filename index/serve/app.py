"""The application: routes, the guard before them, and errors as answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp
from threadpoolctl import threadpool_limits

from delg.errors import DelgError
from index.serve import api, pages
from index.serve.errors import answer_to
from index.serve.job_queue import GoneError
from index.serve.security import Guard
from index.serve.service import Service

# Nobody reads this answer.
_HUNG_UP = 499
_ABOUT = (
    "Find the photos of that very thing: instance-level image retrieval over one index. "
    "Errors are JSON objects with the key `error`."
)


def make_app(service: Service, more: Sequence[pages.MorePages] = ()) -> ASGIApp:
    """The application over an index.

    Args:
        service: what it does.
        more: pages of other packages.
    """
    # Requests already run side by side; more threads inside each product only contend.
    threadpool_limits(1, user_api="blas")

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        views.close()
        service.close()

    app = FastAPI(
        title="delg", version=_version(), description=_ABOUT, lifespan=life,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    views = pages.Pages(service, more)
    app.include_router(api.make_router(service))
    app.include_router(views.make_router(), include_in_schema=False)
    _describe_token(app, service)
    _answer_errors(app, views)
    return Guard(app, service.settings)


def _version() -> str:
    try:
        return version("delg-retrieval")
    except PackageNotFoundError:
        return "0"


def _describe_token(app: FastAPI, service: Service) -> None:
    if service.settings.token is None:
        return
    described = app.openapi()
    schemes = described.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["token"] = {"type": "http", "scheme": "bearer"}
    described["security"] = [{"token": []}]
    described["paths"]["/health"]["get"]["security"] = []


def _answer_errors(app: FastAPI, views: pages.Pages) -> None:
    def answer(request: Request, status: int, reason: str, headers: dict[str, str]) -> Response:
        path = request.scope["path"]
        if path.startswith("/api/") or path in ("/health", "/openapi.json"):
            return JSONResponse({"error": reason}, status, headers)
        return views.problem(request, status, reason, headers)

    @app.exception_handler(DelgError)
    async def work_failed(request: Request, error: DelgError) -> Response:
        return answer(request, *answer_to(error))

    @app.exception_handler(RequestValidationError)
    async def value_does_not_fit(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return answer(request, 422, f"{first['loc'][-1]}: {first['msg']}", {})

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        reason = {404: "there is nothing here", 405: "not with this method"}
        said = reason.get(error.status_code, str(error.detail))
        return answer(request, error.status_code, said, dict(error.headers or {}))

    @app.exception_handler(GoneError)
    async def gone(request: Request, error: GoneError) -> Response:
        return Response(status_code=_HUNG_UP)

    @app.exception_handler(ClientDisconnect)
    async def hung_up(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_HUNG_UP)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        # The server's log has the traceback; a visitor is told nothing of the inside.
        return answer(request, 500, "something broke; the server's log says what", {})
