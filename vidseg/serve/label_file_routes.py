"""Import and export of label files through the annotation server."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from vidseg.labels.label_export import FOLDER_FORMS, LabelForm, export_labels
from vidseg.labels.label_import import import_labels
from vidseg.serve.upload_checks import RequestError

__all__ = ["label_file_routes"]

_MOST_FILES = 100_000
_MOST_BYTES = 1 << 30  # of all files of an archive
_NAMES = {
    "classes": "classes.csv",
    "lists": "lists",
    "targets": "targets.csv",
    "values": "values.csv",
    "segments": "segments.csv",
    "activitynet": "segments.json",
    "frames": "frame_labels",
}
_FOLDERS = ("groundTruth", "splits")  # of frame labels
_FILES = re.compile(r"[^/\\\0]{1,200}\.(csv|tsv|json|txt|lst|list|bundle)", re.IGNORECASE)


def label_file_routes(root: Path) -> APIRouter:
    """Return the routes that write label files to the catalog of `root`, and its labels to files."""
    router = APIRouter(prefix="/v1/annotation")

    @router.post("/import")
    async def import_files(request: Request, form: LabelForm | None = None) -> dict[str, str]:
        with tempfile.TemporaryDirectory(prefix="vidseg_import_") as folder:
            received = Path(folder)
            try:
                paths = await _receive(request, received)
                report = await run_in_threadpool(lambda: import_labels(root, paths, form=form))
            except (ValueError, OSError) as error:
                raise RequestError(422, str(error).replace(f"{folder}/", "").replace(folder, "the files")) from error
        return {"report": str(report)}

    @router.get("/export")
    def export(form: LabelForm, division: Annotated[str | None, Query(max_length=200)] = None) -> Response:
        name = _NAMES[form]
        with tempfile.TemporaryDirectory(prefix="vidseg_export_") as folder:
            out = Path(folder) / name
            try:
                report = export_labels(root, out, form=form, division=division)
            except ValueError as error:
                raise RequestError(422, str(error)) from error
            content = _zipped(out) if form in FOLDER_FORMS else out.read_bytes()
        name = f"{name}.zip" if form in FOLDER_FORMS else name
        said = str(report).replace(str(out), name).replace("\n", "; ")
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Report": quote(said[:2000])}
        return Response(content, media_type="application/octet-stream", headers=headers)

    return router


async def _receive(request: Request, folder: Path) -> list[Path]:
    """Write the files of a form (multipart/form-data, fields `files`), or of a ZIP archive, to a folder.

    Raises:
        RequestError: there are none, or the form has other fields.
        ValueError: a file is not a label file, or has the name of another one.
    """
    async with request.form(max_files=_MOST_FILES, max_fields=0) as form:
        files = [value for name, value in form.multi_items() if name == "files" and isinstance(value, UploadFile)]
        if not files or len(files) != len(form.multi_items()):
            raise RequestError(422, "the form needs one or more files in the field files, and nothing else")
        for file in files:
            if len(files) == 1 and (file.filename or "").lower().endswith(".zip"):
                content = await file.read()
                await run_in_threadpool(_unpack, content, folder)
            else:
                name = PurePosixPath((file.filename or "").replace("\\", "/")).name
                _place(folder, name).write_bytes(await file.read())
    if (folder / "groundTruth").is_dir():
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_file())


def _unpack(content: bytes, folder: Path) -> None:
    """Write the label files of an archive to a folder; of their folders only those of frame labels are kept."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise ValueError(f"not a ZIP archive: {error}") from error
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) > _MOST_FILES or sum(member.file_size for member in members) > _MOST_BYTES:
        raise ValueError(f"an archive of more than {_MOST_FILES} files or {_MOST_BYTES} bytes")
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        inside = folder / path.parent.name if path.parent.name in _FOLDERS else folder
        inside.mkdir(exist_ok=True)
        try:
            with archive.open(member) as source:
                data = source.read(member.file_size + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path.name}: cannot be read from the archive: {error}") from error
        _place(inside, path.name).write_bytes(data)


def _place(folder: Path, name: str) -> Path:
    """Return the path of a new file, whose name decides how it is read; it cannot lead out of the folder."""
    if not _FILES.fullmatch(name) or name.startswith("."):
        raise ValueError(f"{name!r:.200}: not a label file; expected .csv, .tsv, .json, .txt, .lst, .list or a .zip")
    path = folder / name
    if path.exists():
        raise ValueError(f"{name!r:.200}: two files have this name")
    return path


def _zipped(folder: Path) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return memory.getvalue()
