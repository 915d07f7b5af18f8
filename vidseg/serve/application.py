"""The application of the server: its routes, health and metrics."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response

import vidseg
from vidseg.engine.trained import TrainedModel
from vidseg.serve.request_guard import RequestGuard, error_response
from vidseg.serve.request_routes import routes
from vidseg.serve.serve_options import ServeOptions
from vidseg.serve.server_state import ServerState
from vidseg.serve.stream_routes import stream_routes
from vidseg.serve.web_pages import add_errors, add_files, add_page

__all__ = ["make_application"]


def make_application(
    models: Mapping[str, TrainedModel], options: ServeOptions | None = None, *, token: str | None = None
) -> FastAPI:
    """Make the ASGI application of a server.

    Args:
        models: trained models by name; the first one is the default of the pages. Their networks are
            replaced by batched ones until the server stops.
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
    app.add_middleware(RequestGuard, metrics=state.metrics, max_bytes=state.options.max_bytes, token=token)
    app.include_router(routes(state))
    app.include_router(stream_routes(state, token))
    add_page(app, "/", "index.html")
    add_page(app, "/docs", "docs.html")
    add_files(app)
    add_errors(app)

    @app.get("/health", summary="Whether the server takes requests", tags=["server"])
    def health() -> Response:
        if state.stopping:
            return error_response(503, "the server is shutting down", seconds=5)
        return PlainTextResponse('{"status": "ok"}', media_type="application/json")

    @app.get("/metrics", summary="Counts and times in the format of Prometheus", tags=["server"])
    def metrics() -> Response:
        return PlainTextResponse(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app
