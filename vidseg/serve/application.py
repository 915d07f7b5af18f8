"""The application of the server: routes, pages, errors, health and metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import vidseg
from vidseg.engine.trained import TrainedModel
from vidseg.serve.request_guard import RequestGuard, error_response
from vidseg.serve.request_progress import CanceledError, TimeLimitError
from vidseg.serve.request_routes import routes
from vidseg.serve.serve_options import ServeOptions
from vidseg.serve.server_state import BusyError, ServerState
from vidseg.serve.stream_routes import stream_routes
from vidseg.serve.upload_checks import RequestError

__all__ = ["PAGES", "make_application"]

logger = logging.getLogger(__name__)

PAGES = Path(__file__).parent / "pages"
"""Folder of the HTML, CSS and JavaScript files."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_CLIENT_GONE = 499


def make_application(
    models: Mapping[str, TrainedModel], options: ServeOptions | None = None, *, token: str | None = None
) -> FastAPI:
    """Make the ASGI application of a server.

    Args:
        models: trained models by name; the first one is the default of the pages. Their networks are replaced by
            batched ones.
        options: limits and batching; None: the defaults.
        token: that clients must send; None: the server answers to names and addresses of this machine alone.

    Returns:
        The application. `app.state.server` is its `ServerState`.

    Raises:
        ValueError: a model cannot be served, or another server uses the folder of the store.
    """
    state = ServerState(models, options or ServeOptions())
    app = FastAPI(
        title="vidseg",
        version=vidseg.__version__,
        description="Classes, segments and detections of videos.",
        docs_url=None,
        redoc_url=None,
        lifespan=state.lifespan,
    )
    app.state.server = state
    app.add_middleware(RequestGuard, state=state, token=token)
    app.include_router(routes(state))
    app.include_router(stream_routes(state, token))
    _add_pages(app)
    _add_errors(app)

    @app.get("/health", summary="Whether the server takes requests", tags=["server"])
    def health() -> Response:
        if state.stopping:
            return error_response(503, "the server is shutting down", seconds=5)
        return PlainTextResponse('{"status": "ok"}', media_type="application/json")

    @app.get("/metrics", summary="Counts and times in the format of Prometheus", tags=["server"])
    def metrics() -> Response:
        return PlainTextResponse(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _add_pages(app: FastAPI) -> None:
    def page(name: str) -> Any:
        def answer() -> Response:
            return FileResponse(PAGES / name, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"})

        return answer

    app.get("/", include_in_schema=False)(page("index.html"))
    app.get("/docs", include_in_schema=False)(page("docs.html"))
    app.mount("/pages", StaticFiles(directory=PAGES), name="pages")


def _add_errors(app: FastAPI) -> None:
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
        return error_response(500, f"the prediction failed: {type(error).__name__}; see the log", request=name)
