"""The web application: routes, the security middleware around them, and error responses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp
from threadpoolctl import threadpool_limits

import delg
from delg.errors import DelgError
from index.serve import api, pages
from index.serve.errors import error_response
from index.serve.job_queue import GoneError
from index.serve.metrics import MetricsMiddleware
from index.serve.security import SecurityMiddleware
from index.serve.service import Service

# The status, by custom, where the client has gone and nobody reads the response.
_CLIENT_CLOSED_REQUEST = 499
_DESCRIPTION = (
    "Instance-level image retrieval: find the photos of an index that show the same thing. "
    "Errors are JSON objects with the key `error`."
)


def make_app(service: Service, extra_pages: Sequence[pages.ExtraPages] = ()) -> ASGIApp:
    """The application over an index.

    Args:
        service: the index and its operations.
        extra_pages: pages of other packages.
    """
    # Requests already run in parallel; threads inside each product would only contend.
    threadpool_limits(1, user_api="blas")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="delg", version=delg.__version__, description=_DESCRIPTION, lifespan=lifespan,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    views = pages.Pages(service, extra_pages)
    app.include_router(api.make_router(service))
    app.include_router(views.make_router(), include_in_schema=False)
    _describe_token(app, service)
    _add_error_handlers(app, views)
    return SecurityMiddleware(MetricsMiddleware(app, service.metrics), service.settings)


def _describe_token(app: FastAPI, service: Service) -> None:
    """Add the token to the OpenAPI schema, where one is required."""
    if service.settings.token is None:
        return
    schema = app.openapi()
    schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["token"] = {"type": "http", "scheme": "bearer"}
    schema["security"] = [{"token": []}]
    schema["paths"]["/health"]["get"]["security"] = []


def _add_error_handlers(app: FastAPI, views: pages.Pages) -> None:
    def respond(request: Request, status: int, reason: str, headers: dict[str, str]) -> Response:
        path = request.scope["path"]
        if path.startswith("/api/") or path in ("/health", "/openapi.json"):
            return JSONResponse({"error": reason}, status, headers)
        return views.error(request, status, reason, headers)

    @app.exception_handler(DelgError)
    async def engine_error(request: Request, error: DelgError) -> Response:
        return respond(request, *error_response(error))

    @app.exception_handler(RequestValidationError)
    async def invalid_value(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return respond(request, 422, f"{first['loc'][-1]}: {first['msg']}", {})

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        reasons = {404: "page not found", 405: "method not allowed"}
        reason = reasons.get(error.status_code, str(error.detail))
        return respond(request, error.status_code, reason, dict(error.headers or {}))

    @app.exception_handler(GoneError)
    async def client_gone(request: Request, error: GoneError) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    @app.exception_handler(ClientDisconnect)
    async def client_disconnected(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        # The server's log has the traceback; clients learn no internals.
        return respond(request, 500, "internal error; see the server's log", {})
