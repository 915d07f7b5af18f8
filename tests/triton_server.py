"""A real Triton server, which `.ci/triton` installs."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
HOME = Path(os.environ.get("VIDSEG_TRITON") or Path(sys.prefix) / "triton")
SERVER = HOME / "tritonserver"
MISSING = f"{SERVER} is not there; .ci/triton installs it"
_SECONDS = 120.0
_ATTEMPTS = 3

# The wheel has no ONNX Runtime backend. This one, written in Python, takes its place: it gets what the configuration of
# a model promises, and returns what ONNX Runtime computes.
_ONNX_RUNTIME = """
import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        config = json.loads(args["model_config"])
        self.inputs, self.outputs = ([one["name"] for one in config[kind]] for kind in ("input", "output"))

    def execute(self, requests):
        return [self.response(request) for request in requests]

    def response(self, request):
        given = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        found = zip(self.outputs, self.session.run(self.outputs, given))
        return triton.InferenceResponse([triton.Tensor(name, np.ascontiguousarray(value)) for name, value in found])
"""


def with_onnx_runtime(folder: Path) -> Path:
    """A folder of backends: that of the server, and one for ONNX files."""
    (folder / "onnxruntime").mkdir(parents=True)
    (folder / "onnxruntime/model.py").write_text(_ONNX_RUNTIME)
    (folder / "python").symlink_to(HOME / "wheel/pytriton/tritonserver/backends/python")
    return folder


@contextlib.contextmanager
def running_triton(
    repositories: Sequence[Path], models: Sequence[str], log: Path, *, backends: Path | None = None
) -> Iterator[tuple[str, int]]:
    """A server with some models of the repositories: yields its address and the number of its process."""
    words = [
        str(SERVER),
        "--model-control-mode",
        "explicit",
        "--disable-auto-complete-config",
        "--allow-grpc",
        "false",
        "--allow-metrics",
        "false",
    ]
    words += [] if backends is None else ["--backend-directory", str(backends)]
    words += [word for folder in repositories for word in ("--model-repository", str(folder))]
    words += [word for name in models for word in ("--load-model", name)]
    for attempt in range(_ATTEMPTS):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        place = ["--http-address", "127.0.0.1", "--http-port", str(port)]
        with log.open("w") as file:
            process = subprocess.Popen([*words, *place], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            if _ready(process, f"http://127.0.0.1:{port}"):
                yield f"http://127.0.0.1:{port}", process.pid
                return
        finally:
            process.terminate()
            process.wait(60)
        if attempt + 1 == _ATTEMPTS or "address" not in log.read_text().lower():  # another process has the port now
            raise RuntimeError(f"tritonserver ended: {log.read_text()[-2000:]}")


def _ready(process: subprocess.Popen, url: str) -> bool:
    end = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/v2/health/ready").is_success:
                return True
        time.sleep(0.1)
    return False
