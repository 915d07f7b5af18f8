"""The application of `vidseg annotate`: labels of a data set in a browser."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field

import vidseg
from vidseg.frames import FrameDatabase
from vidseg.frames.jpeg import encode_rgb
from vidseg.labels.annotation import AnnotatedVideo, Annotations, ChangedMeanwhileError
from vidseg.labels.label_changes import NamedSegment, VideoLabels
from vidseg.labels.label_export import divisions
from vidseg.serve.label_file_routes import label_file_routes
from vidseg.serve.request_guard import RequestGuard
from vidseg.serve.server_metrics import ServerMetrics
from vidseg.serve.source_videos import SourceVideos
from vidseg.serve.suggestions import Suggester
from vidseg.serve.upload_checks import RequestError
from vidseg.serve.web_pages import add_errors, add_files, add_page

__all__ = ["make_annotation_application"]

_OPEN_VIDEOS = 8
_MOST_BYTES = 256 << 20  # of a label file or a change
_QUALITY = 90  # of frames that are stored as a video stream


class SegmentBody(BaseModel):
    """A segment in a request: seconds from the first frame, and the name of its class."""

    start: float
    stop: float
    label: str


class VersionBody(BaseModel):
    """Which labels the author saw, and who it is."""

    version: str = Field(max_length=64)
    author: str = Field(max_length=200)


class LabelsBody(VersionBody):
    """New labels of a video."""

    label: str | None = None
    segments: list[SegmentBody]
    classes: list[str] | None = Field(default=None, max_length=100_000)


class ClassBody(BaseModel):
    """A new class."""

    name: str = Field(max_length=4096)


class _Frames:
    """Frames of the videos as JPEG files; keeps the databases that were used last open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[str, FrameDatabase] = {}
        self._lock = threading.Lock()

    def read(self, path: str, number: int) -> bytes:
        with self._lock:
            database = self._open.pop(path, None) or FrameDatabase(self.root / path / "frames.db")
            self._open[path] = database
            while len(self._open) > _OPEN_VIDEOS:
                self._open.pop(next(iter(self._open))).close()
            if not 0 <= number < len(database):
                raise RequestError(404, f"{path} has the frames 0 to {len(database) - 1}, not {number}")
            if database.coded is not None:
                return encode_rgb(database[number], _QUALITY)[0]
            return database.read([number])[0]

    def close(self) -> None:
        with self._lock:
            for database in self._open.values():
                database.close()
            self._open.clear()


class AnnotationState:
    """What the routes share."""

    def __init__(self, annotations: Annotations, suggester: Suggester | None, sources: SourceVideos) -> None:
        self.annotations, self.suggester, self.sources = annotations, suggester, sources
        self.frames = _Frames(annotations.root)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Compute suggestions as long as the server runs."""
        if self.suggester is not None:
            self.suggester.start(self.annotations.videos())
        try:
            yield
        finally:
            if self.suggester is not None:
                self.suggester.close()
            self.frames.close()

    def video(self, path: str) -> AnnotatedVideo:
        """Return a video of the catalog; a path that is not in it is never opened.

        Raises:
            RequestError: there is none (404).
        """
        found = self.annotations.video(path)
        if found is None:
            raise RequestError(404, f"no video {path!r:.200} in the data set")
        return found

    def labels(self, path: str) -> dict[str, Any]:
        """Return the labels of a video, their version and history, as plain data."""
        labels, changes = self.annotations.labels(path), self.annotations.changes(path)
        undo, redo = self.annotations.can_take_back(path)
        numbers = {change.number: place + 1 for place, change in enumerate(changes)}
        return {
            "label": labels.label,
            "classes": None if labels.classes is None else list(labels.classes),
            "segments": [asdict(segment) for segment in labels.segments],
            "version": labels.version,
            "can_undo": undo,
            "can_redo": redo,
            "changes": [
                {
                    "time": change.time,
                    "author": change.author,
                    "what": _described(change.labels)
                    if change.undoes is None
                    else f"took back change {numbers[change.undoes]}",
                }
                for change in changes
            ],
        }


def make_annotation_application(
    annotations: Annotations,
    *,
    suggester: Suggester | None = None,
    videos: Path | None = None,
    token: str | None = None,
) -> FastAPI:
    """Make the ASGI application of `vidseg annotate`.

    Args:
        annotations: labels of the data set.
        suggester: a model that suggests labels; None: no suggestions.
        videos: folder to search for the source videos; None: they are where the conversion has read them.
        token: that clients must send; None: the server answers to names and addresses of this machine alone.

    Returns:
        The application.
    """
    state = AnnotationState(annotations, suggester, SourceVideos(annotations.root, videos=videos))
    app = FastAPI(
        title="vidseg annotate", version=vidseg.__version__, docs_url=None, redoc_url=None, lifespan=state.lifespan
    )
    app.add_middleware(RequestGuard, metrics=ServerMetrics(), max_bytes=_MOST_BYTES, token=token)
    app.include_router(_routes(state))
    app.include_router(label_file_routes(annotations.root))
    app.include_router(_source_routes(state))
    add_page(app, "/", "annotate.html")
    add_files(app)
    add_errors(app)
    return app


_Path = Annotated[str, Query(alias="video", max_length=4096, description="folder of the video: jpg/<class>/<video>")]


def _routes(state: AnnotationState) -> APIRouter:
    router, annotations = APIRouter(prefix="/v1/annotation"), state.annotations

    def changed(path: str, change: Callable[[], object]) -> dict[str, Any]:
        state.video(path)
        try:
            change()
        except ChangedMeanwhileError as error:
            raise RequestError(409, str(error)) from error
        except ValueError as error:
            raise RequestError(422, str(error)) from error
        return state.labels(path)

    @router.get("")
    def project() -> dict[str, Any]:
        model = state.suggester.trained.network if state.suggester is not None else None
        return {
            "name": annotations.root.resolve().name,
            "classes": annotations.classes(),
            "background": annotations.background,
            "divisions": divisions(annotations.root),
            "model": model,
            "pending": 0 if state.suggester is None else state.suggester.pending,
        }

    @router.get("/videos")
    def videos() -> list[dict[str, Any]]:
        rows = []
        for video in annotations.videos():
            found = state.suggester.known(video.path) if state.suggester is not None else None
            has_frames = (annotations.root / video.path / "frames.db").is_file()
            uncertainty = None if found is None else found.uncertainty
            rows.append({**asdict(video), "has_frames": has_frames, "uncertainty": uncertainty})
        return rows

    @router.get("/labels")
    def labels(path: _Path) -> dict[str, Any]:
        state.video(path)
        return state.labels(path)

    @router.put("/labels")
    def save(path: _Path, body: LabelsBody) -> dict[str, Any]:
        segments = tuple(NamedSegment(one.start, one.stop, one.label) for one in body.segments)
        new = VideoLabels(body.label, segments, None if body.classes is None else tuple(body.classes))
        return changed(path, lambda: annotations.change(path, new, version=body.version, author=body.author))

    @router.post("/undo")
    def undo(path: _Path, body: VersionBody) -> dict[str, Any]:
        return changed(path, lambda: annotations.undo(path, version=body.version, author=body.author))

    @router.post("/redo")
    def redo(path: _Path, body: VersionBody) -> dict[str, Any]:
        return changed(path, lambda: annotations.redo(path, version=body.version, author=body.author))

    @router.post("/classes")
    def add_class(body: ClassBody) -> list[str]:
        try:
            return annotations.add_class(body.name)
        except ValueError as error:
            raise RequestError(422, str(error)) from error

    @router.get("/frame")
    def frame(path: _Path, number: int) -> Response:
        state.video(path)
        try:
            jpeg = state.frames.read(path, number)
        except (OSError, RuntimeError, ValueError) as error:
            raise RequestError(404, str(error)) from error
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @router.get("/suggestion")
    def suggestion(path: _Path) -> dict[str, Any]:
        if state.suggester is None:
            raise RequestError(404, "there is no model that suggests labels; start with --suggest RUN")
        try:
            return asdict(state.suggester.find(state.video(path)))
        except (OSError, ValueError) as error:
            raise RequestError(422, str(error)) from error

    return router


def _source_routes(state: AnnotationState) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/annotation/source")
    def source(path: _Path) -> dict[str, Any]:
        state.video(path)
        try:
            found = state.sources.find(path)
        except ValueError as error:
            raise RequestError(404, str(error)) from error
        shown = {name: value for name, value in asdict(found).items() if name != "name"}
        return {"address": f"/source/{found.name}", **shown}

    @router.get("/source/{name}")
    def file(name: str) -> Response:
        path = state.sources.file(name)
        if path is None or not path.is_file():
            raise RequestError(404, "no such video; open its page again")
        return FileResponse(
            path, media_type=state.sources.media_type(path), headers={"Cache-Control": "private, no-store"}
        )

    return router


def _described(labels: VideoLabels) -> str:
    words = [f"class {labels.label}"] if labels.label is not None else []
    if labels.classes is not None:
        words.append(f"classes {', '.join(labels.classes) or 'none'}")
    count = len(labels.segments)
    return ", ".join([*words, f"{count} segment{'' if count == 1 else 's'}"])
