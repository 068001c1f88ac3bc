"""Signing in and out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from index.serve.security import COOKIE, is_token, session_value

if TYPE_CHECKING:
    from index.serve.pages import Pages

# Seconds until a wrong token is answered, against guessing.
_WRONG_TOKEN_DELAY = 0.5
_SESSION_SECONDS = 30 * 24 * 3600


def make_router(pages: Pages) -> APIRouter:
    """``/login`` and ``/logout``."""
    router = APIRouter()
    service = pages.service
    token = service.settings.token

    @router.get("/login")
    def login_page(request: Request, next: str = f"{service.root}/") -> Response:
        return pages.render(request, "login.html", next=_local_path(next), wrong=False)

    @router.post("/login")
    async def login(request: Request) -> Response:
        form = await service.login_receiver.receive(request)
        target = _local_path(form.fields.get("next", f"{service.root}/"))
        if token is None:
            return RedirectResponse(target, 303)
        if not is_token(form.fields.get("token", "").strip(), token):
            await asyncio.sleep(_WRONG_TOKEN_DELAY)
            return pages.render(request, "login.html", 401, next=target, wrong=True)
        response = RedirectResponse(target, 303)
        response.set_cookie(
            COOKIE, session_value(token), _SESSION_SECONDS, httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    @router.post("/logout")
    async def logout() -> Response:
        # Queries that the browser keeps for its Back button go too.
        response = RedirectResponse(f"{service.root}/login", 303, {"clear-site-data": '"storage"'})
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    return router


def _local_path(path: str) -> str:
    """The path if it belongs to this server, so that nobody is led elsewhere; otherwise ``/``."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if plain else "/"
