"""The model of Triton's Python backend: videos, JPEG frames or features to the results of `vidseg serve`.

Its module is imported by the `model.py` of a repository that `vidseg export --to triton` writes.
"""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from vidseg.serve.predictors import PredictOptions, Predictor, Upload, upload_in
from vidseg.serve.request_progress import Progress, TimeLimitError
from vidseg.serve.result_forms import Form, render
from vidseg.serve.serve_options import ServeOptions
from vidseg.serve.upload_checks import RequestError, write_frames

__all__ = ["TritonPythonModel", "TritonRequests"]

_INPUTS = ("VIDEO", "FRAMES", "FEATURES")
_OUTPUT = "PREDICTION"
_FACTS = "vidseg"  # parameter of the configuration that describes the model to clients
_LIMITS: dict[str, Callable[[str], Any]] = {
    "workers": int, "batch_size": int, "batch_delay": float, "max_bytes": int, "max_seconds": float, "max_pixels": int,
    "max_frames": int, "time_limit": float,
}  # fmt: skip
_FPS = 25.0


def _switch(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "clips": int, "crops": int, "top": int, "timeline": _switch, "min_score": float, "fps": float, "seconds": float,
    "form": str,
}  # fmt: skip


class TritonRequests:
    """Predictions for the tensors of a request, as text.

    Args:
        model: exported model, run or checkpoint.
        name: name in results, default that of the network.
        device: device to compute on.
        limits: of requests, and batching.

    Raises:
        ValueError: the model cannot be served.
    """

    def __init__(
        self, model: str | Path, *, name: str = "", device: str = "cpu", limits: ServeOptions | None = None
    ) -> None:
        from vidseg.tasks import load_trained

        trained = load_trained(model, device=device)
        self.limits = limits or ServeOptions()
        self.predictor = Predictor(name or trained.network, trained, self.limits)

    def close(self) -> None:
        """End the batching."""
        self.predictor.close()

    def predict(self, given: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
        """Return the result of one prediction, as `vidseg serve` returns it.

        Args:
            given: one of "VIDEO" (bytes), "FRAMES" (JPEGs of one size, in order) and "FEATURES" (D, length).
            parameters: options of the prediction by name: those of `PredictOptions`, the `form` of the result, and the
                `fps` of frames, default 25.

        Raises:
            RequestError: the request cannot be served.
            TimeLimitError: the computation takes longer than the limit.
        """
        options = {name: _option(name, value) for name, value in parameters.items()}
        form = options.pop("form", "json")
        if form not in get_args(Form):
            raise RequestError(422, f"form={form!r:.40} is not one of {', '.join(get_args(Form))}")
        if len(given) != 1:
            raise RequestError(422, f"the request has {' and '.join(given) or 'no input'}; expected one input")
        (kind,) = given
        rate = options.pop("fps", _FPS) if kind == "FRAMES" else _FPS
        limits = self.limits
        with tempfile.TemporaryDirectory(prefix="vidseg-") as folder:
            upload = self._written(Path(folder), kind, given[kind], rate)
            found = self.predictor.predict(
                upload, PredictOptions(**options), Progress(limits.time_limit), max_seconds=limits.max_seconds
            )
        return json.dumps(found, ensure_ascii=False) if form == "json" else render(found, form)

    def _written(self, folder: Path, kind: str, content: Any, fps: float) -> Upload:
        """Write an input to a file."""
        upload = upload_in(folder, "features" if kind == "FEATURES" else "video")
        size = sum(map(len, content)) if kind == "FRAMES" else len(content) if kind == "VIDEO" else content.nbytes
        if size == 0:
            raise RequestError(422, f"{kind} is empty")
        if size > self.limits.max_bytes:
            raise RequestError(413, f"{kind} has {size} bytes, more than the limit of {self.limits.max_bytes}")
        if kind == "FEATURES":
            np.save(upload.path, content)
        elif kind == "FRAMES":
            write_frames(upload.path, content, fps=fps, max_pixels=self.limits.max_pixels)
        else:
            upload.path.write_bytes(content)
        return upload


def _option(name: str, value: Any) -> Any:
    """Return the value of a parameter, which may be text."""
    if name not in _OPTIONS:
        raise RequestError(422, f"unknown option {name!r:.40}; expected one of {', '.join(_OPTIONS)}")
    try:
        return _OPTIONS[name](str(value))
    except (ValueError, KeyError) as error:
        raise RequestError(422, f"{name}={value!r:.40} is not valid") from error


class TritonPythonModel:
    """What the Python backend calls; its name and methods are those that the backend expects."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the ONNX model, whose place in the repository is in the configuration.

        Args:
            args: of the backend.

        Raises:
            ValueError: the configuration has an unknown limit.
            RuntimeError: the server cannot exchange arrays with NumPy.
        """
        import triton_python_backend_utils as triton

        self._triton = triton
        _check_arrays(triton)
        given = json.loads(args["model_config"])["parameters"]
        values = {name: value["string_value"] for name, value in given.items() if name != _FACTS}
        model = Path(args["model_repository"]).parent / values.pop("model")
        if "compute_threads" in values:
            torch.set_num_threads(int(values.pop("compute_threads")))
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        self._requests = TritonRequests(model, name=args["model_name"], device=device, limits=limits_of(values))
        self._pool = ThreadPoolExecutor(self._requests.limits.workers)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return the responses to the requests of a batch.

        Args:
            requests: requests with one of the inputs; each of their rows is one video.
        """
        return list(self._pool.map(self._response, requests))

    def finalize(self) -> None:
        """End the threads."""
        self._pool.shutdown()
        self._requests.close()

    def _response(self, request: Any) -> Any:
        triton = self._triton
        try:
            arrays = {
                name: tensor.as_numpy()
                for name in _INPUTS
                if (tensor := triton.get_input_tensor_by_name(request, name)) is not None
            }
            parameters = json.loads(request.parameters() or "{}")
            rows = [
                self._requests.predict({name: _plain(name, array[row]) for name, array in arrays.items()}, parameters)
                for row in range(max((len(array) for array in arrays.values()), default=1))
            ]
        except RequestError as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error), triton.TritonError.INVALID_ARG))
        except TimeLimitError as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error)))
        except Exception as error:  # noqa: BLE001  (other requests share the batch; the log has the reason)
            triton.Logger.log_error(traceback.format_exc())
            return triton.InferenceResponse(error=triton.TritonError(f"internal error: {type(error).__name__}"))
        found = np.array([[text.encode()] for text in rows], dtype=object)
        return triton.InferenceResponse([triton.Tensor(_OUTPUT, found)])


def _plain(name: str, row: Any) -> Any:
    if name == "FEATURES":
        return row
    return row.tobytes() if name == "VIDEO" else [bytes(jpeg) for jpeg in row]


def limits_of(values: Mapping[str, str]) -> ServeOptions:
    """Return limits from the parameters of a configuration.

    Raises:
        ValueError: a name that is not a limit, or a value that is not a number.
    """
    unknown = sorted(set(values) - set(_LIMITS))
    if unknown:
        raise ValueError(f"config.pbtxt: unknown parameter {unknown[0]!r}; expected one of {', '.join(_LIMITS)}")
    try:
        return ServeOptions(**{name: _LIMITS[name](value) for name, value in values.items()})
    except ValueError as error:
        raise ValueError(f"config.pbtxt: a limit is not valid: {error}") from error


def _check_arrays(triton: Any) -> None:
    """Refuse a backend that was built for another version of NumPy, whose arrays have wrong values.

    Raises:
        RuntimeError: arrays do not arrive as they were sent.
    """
    sent = torch.arange(64, dtype=torch.uint8)
    if triton.Tensor.from_dlpack("CHECK", sent).as_numpy().tolist() != sent.tolist():
        raise RuntimeError(
            f"the Python backend of this server cannot use NumPy {np.__version__}; install numpy<2 in its Python"
        )
