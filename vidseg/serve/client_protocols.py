"""The requests of a client, to a server of `vidseg serve` or to a Triton server.

A protocol yields the requests of a call and gets the response of each, so that both clients share it.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Generator, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import httpx
import numpy as np

__all__ = ["ClientProtocol", "Request", "ServerError", "Steps", "TritonProtocol", "VidsegProtocol", "read_response"]

_OUTPUT = "PREDICTION"
_FACTS = "vidseg"
_NUMPY = b"\x93NUMPY"


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


Steps = Generator[Request, httpx.Response, Any]
"""Requests of one call, whose value is its result."""


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
        path = yield from self._path(model)
        return read_response((yield Request("POST", path, {"content": content, "params": options})))

    def predict_frames(
        self, frames: Iterable[bytes], fps: float, model: str | None, options: Mapping[str, Any]
    ) -> Steps:
        """See `ClientProtocol.predict_frames`."""
        path = yield from self._path(model)
        files = [("frames", (f"{number}.jpg", jpeg, "image/jpeg")) for number, jpeg in enumerate(frames)]
        form = {"files": files, "data": {"fps": str(fps)}, "params": options}
        return read_response((yield Request("POST", path, form)))

    def _path(self, model: str | None) -> Generator[Request, httpx.Response, str]:
        if model is None:
            model = (yield from self.models())[0]["name"]
        return f"/v1/models/{model}/predict"


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
