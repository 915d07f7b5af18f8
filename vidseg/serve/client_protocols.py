"""The requests of a client, to a server of `vidseg serve` or to a Triton server.

A protocol yields the requests and pauses of a call and gets the response of each request; both clients share it.
"""

from __future__ import annotations

import io
import json
import struct
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import httpx
import numpy as np

__all__ = [
    "ClientProtocol",
    "Pause",
    "Request",
    "ServerError",
    "Steps",
    "TritonProtocol",
    "VidsegProtocol",
    "patient",
    "read_response",
]

_OUTPUT = "PREDICTION"
_FACTS = "vidseg"
_NUMPY = b"\x93NUMPY"
_BUSY = 503
_POLL_SECONDS = (0.05, 1.0)  # first and longest pause between two questions for a job
_ENDED = ("done", "failed", "canceled")


class ServerError(RuntimeError):
    """Raised for an answer of the server that is an error.

    Args:
        status: HTTP status; of a stream, the status in its error message.
        message: reason that the server gives.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (status {status})")
        self.status, self.message = status, message


class Request(NamedTuple):
    """One HTTP request: method, path, and arguments of httpx."""

    method: str
    path: str
    options: Mapping[str, Any] = {}


class Pause(NamedTuple):
    """Time to wait before the next request."""

    seconds: float


Steps = Generator[Request | Pause, Any, Any]
"""Requests of one call, each of which gets its response, and pauses between them; the value is the call's result."""


def patient(steps: Steps, seconds: float) -> Steps:
    """Repeat requests while the server is busy (status 503), for at most `seconds` each."""
    try:
        step = next(steps)
        while True:
            end = time.monotonic() + seconds
            response = yield step
            while isinstance(step, Request) and response.status_code == _BUSY:
                pause = _retry_after(response)
                if time.monotonic() + pause > end:
                    break
                yield Pause(pause)
                response = yield step
            step = steps.send(response)
    except StopIteration as stop:
        return stop.value


def _retry_after(response: httpx.Response) -> float:
    try:
        return float(response.headers.get("retry-after", "1"))
    except ValueError:
        return 1.0


class ClientProtocol(Protocol):
    """The requests that both kinds of servers answer."""

    def models(self) -> Steps:
        """Describe the models."""

    def predict(self, content: bytes, model: str | None, options: Mapping[str, Any]) -> Steps:
        """Predict a video or a file of features; `model` None: the first one."""

    def predict_frames(
        self, frames: Iterable[bytes], fps: float, model: str | None, options: Mapping[str, Any]
    ) -> Steps:
        """Predict JPEG frames; `model` None: the first one."""


def read_response(response: httpx.Response) -> Any:
    """Return the content of a response.

    Raises:
        ServerError: the response is an error.
    """
    if response.is_success:
        kind = response.headers.get("content-type", "")
        return response.json() if kind.startswith("application/json") else response.text
    try:
        error = response.json()["error"]
        message = error if isinstance(error, str) else error["message"]  # of Triton it is text
    except (ValueError, KeyError, TypeError):  # of a proxy, or not of such a server
        message = response.text[:200] or response.reason_phrase
    raise ServerError(response.status_code, message)


class VidsegProtocol:
    """The protocol of `vidseg serve`."""

    def models(self) -> Steps:
        """See `ClientProtocol.models`."""
        return list(read_response((yield Request("GET", "/v1/models")))["models"])

    def predict(self, content: bytes, model: str | None, options: Mapping[str, Any]) -> Steps:
        """See `ClientProtocol.predict`."""
        path = f"/v1/models/{(yield from self.name(model))}/predict"
        return read_response((yield Request("POST", path, {"content": content, "params": options})))

    def predict_frames(
        self, frames: Iterable[bytes], fps: float, model: str | None, options: Mapping[str, Any]
    ) -> Steps:
        """See `ClientProtocol.predict_frames`."""
        path = f"/v1/models/{(yield from self.name(model))}/predict"
        files = [("frames", (f"{number}.jpg", jpeg, "image/jpeg")) for number, jpeg in enumerate(frames)]
        form = {"files": files, "data": {"fps": str(fps)}, "params": options}
        return read_response((yield Request("POST", path, form)))

    def name(self, model: str | None) -> Steps:
        """Return the name of a model; of the first one for None."""
        return model if model is not None else str((yield from self.models())[0]["name"])

    def submit(self, content: bytes, model: str | None, key: str | None, options: Mapping[str, Any]) -> Steps:
        """Send a video as a job; the value is its id."""
        path = f"/v1/models/{(yield from self.name(model))}/jobs"
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        request = Request("POST", path, {"content": content, "params": options, "headers": headers})
        return str(read_response((yield request))["id"])

    def job(self, job: str) -> Steps:
        """Return state and progress of a job."""
        return dict(read_response((yield Request("GET", f"/v1/jobs/{job}"))))

    def jobs(self) -> Steps:
        """Return the latest jobs."""
        return list(read_response((yield Request("GET", "/v1/jobs")))["jobs"])

    def cancel(self, job: str) -> Steps:
        """Cancel a job and return its state."""
        return dict(read_response((yield Request("DELETE", f"/v1/jobs/{job}"))))

    def result(self, job: str, form: str) -> Steps:
        """Return the result of a job that is done."""
        return read_response((yield Request("GET", f"/v1/jobs/{job}/result", {"params": {"form": form}})))

    def wait(self, job: str, form: str, progress: Callable[[float], None] | None) -> Steps:
        """Ask for a job until it has ended, and return its result."""
        pause, longest = _POLL_SECONDS
        while (state := (yield from self.job(job)))["state"] not in _ENDED:
            if progress is not None:
                progress(state["progress"])
            yield Pause(pause)
            pause = min(longest, pause * 1.5)
        return (yield from self.result(job, form))


class TritonProtocol:
    """The inference protocol of KServe, version 2, with Triton's binary tensors, for the Python models of repositories
    that `vidseg export --to triton` writes.
    """

    def models(self) -> Steps:
        """See `ClientProtocol.models`; models of other origin are left out."""
        found = []
        for row in read_response((yield Request("POST", "/v2/repository/index", {"json": {"ready": True}}))):
            config = read_response((yield Request("GET", f"/v2/models/{row['name']}/config")))
            if _FACTS in config.get("parameters", {}):
                facts = json.loads(config["parameters"][_FACTS]["string_value"])
                found.append({"name": row["name"], **facts})
        return found

    def predict(self, content: bytes, model: str | None, options: Mapping[str, Any]) -> Steps:
        """See `ClientProtocol.predict`."""
        if not content.startswith(_NUMPY):
            return (yield from self._infer("VIDEO", "UINT8", [len(content)], content, model, options))
        try:
            values = np.load(io.BytesIO(content), allow_pickle=False).astype("<f4", order="C")
        except (ValueError, EOFError) as error:
            raise ValueError(f"the features are not a .npy file of numbers: {error}") from error
        return (yield from self._infer("FEATURES", "FP32", [*values.shape], values.tobytes(), model, options))

    def predict_frames(
        self, frames: Iterable[bytes], fps: float, model: str | None, options: Mapping[str, Any]
    ) -> Steps:
        """See `ClientProtocol.predict_frames`."""
        parts = [struct.pack("<I", len(jpeg)) + jpeg for jpeg in frames]
        options = {**options, "fps": fps}
        return (yield from self._infer("FRAMES", "BYTES", [len(parts)], b"".join(parts), model, options))

    def _infer(
        self, name: str, kind: str, shape: list[int], content: bytes, model: str | None, options: Mapping[str, Any]
    ) -> Steps:
        """Send one input as a batch of one; its bytes follow the header, which is JSON."""
        if model is None:
            known = yield from self.models()
            if not known:
                raise ServerError(404, "the server has no model of `vidseg export --to triton`")
            model = known[0]["name"]
        tensor = {"name": name, "datatype": kind, "shape": [1, *shape]}
        header = {
            "inputs": [tensor | {"parameters": {"binary_data_size": len(content)}}],
            "outputs": [{"name": _OUTPUT, "parameters": {"binary_data": True}}],
            "parameters": dict(options),
        }
        text = json.dumps(header).encode()
        request = {"content": text + content, "headers": {"Inference-Header-Content-Length": str(len(text))}}
        response = yield Request("POST", f"/v2/models/{model}/infer", request)
        if not response.is_success:
            read_response(response)
        start = int(response.headers["Inference-Header-Content-Length"])
        found = response.content[start + 4 :].decode()  # one string, behind its length
        return found if options.get("form", "json") != "json" else json.loads(found)
