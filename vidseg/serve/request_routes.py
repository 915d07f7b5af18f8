"""Routes of models, predictions and jobs."""

from __future__ import annotations

import asyncio
import shutil
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from vidseg.serve.job_store import Job, sync_folder
from vidseg.serve.predictors import PredictOptions
from vidseg.serve.result_forms import MEDIA_TYPES, Form, render
from vidseg.serve.server_state import BusyError, ServerState
from vidseg.serve.upload_checks import RequestError
from vidseg.serve.uploads import receive_upload

__all__ = ["routes"]

_LISTED = 100
_NAME = 200  # longest name of a job


def _options(
    clips: Annotated[int, Query(description="recognition: clips of the video whose probabilities are averaged")] = 1,
    crops: Annotated[int, Query(description="recognition: crops of each clip, 1, 3, 5 or 10")] = 1,
    top: Annotated[int, Query(description="recognition: number of classes")] = 5,
    timeline: Annotated[bool, Query(description="recognition: also label a window that slides over the video")] = False,
    min_score: Annotated[float, Query(description="detection: smallest score")] = 0.0,
    fps: Annotated[float | None, Query(description="features: columns per second")] = None,
    seconds: Annotated[float | None, Query(description="detection from features: duration of the video")] = None,
) -> PredictOptions:
    return PredictOptions(clips, crops, top, timeline, min_score, fps, seconds)


_Options = Annotated[PredictOptions, Depends(_options)]


def _answer(result: dict[str, Any], form: Form) -> Response:
    if form == "json":
        return JSONResponse(result)
    return Response(render(result, form), media_type=MEDIA_TYPES[form])


def _body(description: str) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    fields = {
        "video": {"type": "string", "format": "binary"},
        "features": {"type": "string", "format": "binary"},
        "frames": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "fps": {"type": "number"},
    }
    form = {"schema": {"type": "object", "properties": fields}}
    content = {"application/octet-stream": binary, "multipart/form-data": form}
    return {"requestBody": {"description": description, "required": True, "content": content}}


_UPLOAD = _body(
    "Bytes of a video or of a .npy file of features; or a form with a file in the field video or features, or JPEG "
    "files in the field frames and their rate in fps."
)


def routes(state: ServerState) -> APIRouter:
    """Return the routes of a server."""
    router = APIRouter(prefix="/v1")

    @router.get("/models", summary="List the models")
    def list_models() -> dict[str, Any]:
        return {"models": [predictor.facts() for predictor in state.predictors.values()]}

    @router.get("/models/{model}", summary="Describe a model")
    def describe_model(model: str) -> dict[str, Any]:
        return state.predictor(model).facts()

    @router.post(
        "/models/{model}/predict",
        summary="Predict classes, segments or detections of a short video",
        openapi_extra=_UPLOAD,
    )
    async def predict(model: str, request: Request, options: _Options, form: Form = "json") -> Response:
        predictor, limits = state.predictor(model), state.options
        with state.admitted():
            folder = state.new_folder()
            try:
                upload = await receive_upload(request, folder, max_pixels=limits.max_pixels)
                result = await state.compute(
                    lambda progress: predictor.predict(upload, options, progress, max_seconds=limits.max_seconds),
                    limits.time_limit,
                    request.is_disconnected,
                )
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return _answer(result, form)

    @router.post(
        "/models/{model}/jobs", status_code=202, summary="Accept a job for a long video", openapi_extra=_UPLOAD
    )
    async def add_job(
        model: str,
        request: Request,
        options: _Options,
        name: Annotated[str, Query(max_length=_NAME, description="name of the job, for display")] = "",
        idempotency_key: Annotated[str | None, Header(max_length=_NAME)] = None,
    ) -> Response:
        predictor, store = state.predictor(model), state.store
        if idempotency_key is not None:
            known = await run_in_threadpool(store.find_request, idempotency_key)
            if known is not None:
                return _accepted(known)
        with state.admitted():
            if (await run_in_threadpool(store.counts))["waiting"] >= state.options.job_queue:
                raise BusyError(f"{state.options.job_queue} jobs are waiting; try again later", 60)
            folder = state.new_folder()
            kept = store.uploads / folder.name
            accepted = None
            try:
                upload = await receive_upload(request, folder, max_pixels=state.options.max_pixels)
                if upload.kind != predictor.takes:
                    raise RequestError(422, f"{model} takes {predictor.takes}; the upload is {upload.kind}")

                def accept() -> Job:
                    folder.rename(kept)
                    sync_folder(kept)
                    return store.add(
                        kept.name,
                        request=idempotency_key,
                        model=model,
                        options=options.as_dict(),
                        kind=upload.kind,
                        name=name,
                    )

                accepted = await asyncio.get_running_loop().run_in_executor(state.disk, accept)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                if accepted is None or accepted.id != kept.name:
                    shutil.rmtree(kept, ignore_errors=True)
        state.runner.notify()
        return _accepted(accepted)

    @router.get("/jobs", summary=f"List the latest {_LISTED} jobs")
    def list_jobs() -> dict[str, Any]:
        return {"jobs": [job.as_dict() for job in state.store.latest(_LISTED)]}

    @router.get("/jobs/{job}", summary="State and progress of a job")
    def describe_job(job: str) -> dict[str, Any]:
        return _found(state.store.find(job), job).as_dict()

    @router.delete("/jobs/{job}", summary="Cancel a job")
    def cancel_job(job: str) -> dict[str, Any]:
        return _found(state.store.cancel(job), job).as_dict()

    @router.get("/jobs/{job}/result", summary="Result of a job that is done")
    def job_result(job: str, form: Form = "json") -> Response:
        found = _found(state.store.find(job), job)
        result = state.store.result(job)
        if result is None:
            reason = f": {found.error}" if found.error else ""
            raise RequestError(409, f"job {job} has no result, it is {found.state}{reason}")
        return _answer(result, form)

    return router


def _accepted(job: Job) -> Response:
    return JSONResponse(job.as_dict(), 202, {"Location": f"/v1/jobs/{job.id}"})


def _found(job: Job | None, name: str) -> Job:
    if job is None:
        raise RequestError(404, f"no job {name!r:.80}; results are kept for some time only")
    return job
