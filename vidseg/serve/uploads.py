"""Receiving of uploads into files with names of the server's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from vidseg.serve.predictors import Upload, upload_in
from vidseg.serve.upload_checks import RequestError, write_frames

__all__ = ["receive_upload"]

_FIELDS = 8
_FILES = 10_000  # frames of one request
_PIECE = 1 << 20
_NUMPY = b"\x93NUMPY"


async def receive_upload(request: Request, folder: Path, *, max_pixels: int) -> Upload:
    """Write the body of a request to a file.

    The body is a video or a .npy file, or a form (multipart/form-data) with one file in the field `video` or
    `features`, or JPEG files in the field `frames` and their rate in the field `fps`. Names of files are not used.

    Args:
        request: the request.
        folder: new folder of the upload.
        max_pixels: largest frame.

    Raises:
        RequestError: the body is empty, or the form has other fields.
    """
    path = upload_in(folder, "video").path
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        await _write(path, request.stream())
        return _upload(path)
    async with request.form(max_files=_FILES, max_fields=_FIELDS) as form:
        fields = form.multi_items()
        unknown = sorted({name for name, _ in fields} - {"video", "features", "frames", "fps"})
        if unknown:
            raise RequestError(422, f"the form has the field {unknown[0]!r:.40}; expected video, features or frames")
        files = [(name, value) for name, value in fields if isinstance(value, UploadFile)]
        if any(not isinstance(value, UploadFile) for name, value in fields if name != "fps"):
            raise RequestError(422, "the fields video, features and frames are files")
        names = {name for name, _ in files}
        if names == {"frames"}:
            rate = _rate(form.get("fps"))
            await run_in_threadpool(
                write_frames, path, _contents([value for _, value in files]), fps=rate, max_pixels=max_pixels
            )
            return Upload(path, "video")
        if len(files) != 1 or names == {"fps"}:
            raise RequestError(422, "the form needs one file in the field video or features, or files in frames")
        await _write(path, _pieces(files[0][1]))
    return _upload(path)


async def _write(path: Path, pieces: AsyncIterator[bytes]) -> None:
    with path.open("wb") as file:
        async for piece in pieces:
            file.write(piece)
    if path.stat().st_size == 0:
        raise RequestError(422, "the request is empty; send the bytes of a video")


async def _pieces(file: UploadFile) -> AsyncIterator[bytes]:
    while piece := await file.read(_PIECE):
        yield piece


def _contents(files: list[UploadFile]) -> Iterator[bytes]:
    for file in files:
        yield file.file.read()


def _rate(value: object) -> float:
    if value is None:
        return 25.0
    try:
        return float(str(value))
    except ValueError as error:
        raise RequestError(422, f"fps={value!r:.40} is not a number") from error


def _upload(path: Path) -> Upload:
    """Return the upload with its kind."""
    with path.open("rb") as file:
        head = file.read(len(_NUMPY))
    if head != _NUMPY:
        return Upload(path, "video")
    features = upload_in(path.parent, "features")
    path.rename(features.path)
    return features
