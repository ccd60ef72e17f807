"""The page at `/`: its files, and what browsers are told of them."""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing from another host, nothing written into the page itself, and in nobody's frame."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a newer version's files belong together
}


def add(app: FastAPI) -> None:
    files = {
        entry.name: entry.read_bytes()
        for entry in resources.files("gguf_jax").joinpath("server", "page").iterdir()
        if entry.name.rpartition(".")[2] in TYPES
    }

    def answer(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"page: expected one of its files, found {name[:80]!r}")
        return Response(files[name], media_type=TYPES[name.rpartition(".")[2]], headers=HEADERS)

    @app.get("/", include_in_schema=False)
    @app.head("/", include_in_schema=False)
    async def page() -> Response:
        return answer("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return answer(name)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> RedirectResponse:
        return RedirectResponse("/page/icon.svg")
