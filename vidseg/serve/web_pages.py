"""What every application of this package serves alike: pages, their files, and errors in one form."""

from __future__ import annotations

import logging
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from vidseg.serve.request_guard import error_response
from vidseg.serve.request_progress import CanceledError, TimeLimitError
from vidseg.serve.server_state import BusyError
from vidseg.serve.upload_checks import RequestError

__all__ = ["PAGES", "add_errors", "add_files", "add_page"]

logger = logging.getLogger(__name__)

PAGES = Path(__file__).parent / "pages"
"""Folder of the HTML, CSS and JavaScript files."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_CLIENT_GONE = 499


def add_page(app: FastAPI, address: str, name: str) -> None:
    """Serve the page `name` of `PAGES` at an address, without permission to load anything from elsewhere."""

    def page() -> Response:
        return FileResponse(PAGES / name, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"})

    app.get(address, include_in_schema=False)(page)


def add_files(app: FastAPI) -> None:
    """Serve the files that the pages load under /pages."""
    app.mount("/pages", StaticFiles(directory=PAGES), name="pages")


def add_errors(app: FastAPI) -> None:
    """Give every error the form {"error": {"status", "message", "request"}}."""

    def named(request: Request) -> str:
        return str(request.scope.get("vidseg_request", ""))

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        seconds = error.seconds if isinstance(error, BusyError) else None
        return error_response(error.status, str(error), request=named(request), seconds=seconds)

    @app.exception_handler(TimeLimitError)
    async def too_slow(request: Request, error: TimeLimitError) -> Response:
        return error_response(504, f"{error}; send the video as a job", request=named(request))

    @app.exception_handler(CanceledError)
    async def gone(request: Request, error: CanceledError) -> Response:
        return error_response(_CLIENT_GONE, "the client closed the connection", request=named(request))

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return error_response(_CLIENT_GONE, "the client closed the connection", request=named(request))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return error_response(422, f"{place}: {first['msg']}", request=named(request))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return error_response(error.status_code, str(error.detail), request=named(request))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        name = named(request)
        logger.error("request %s failed", name, exc_info=error)
        return error_response(500, f"the request failed: {type(error).__name__}; see the log", request=name)
