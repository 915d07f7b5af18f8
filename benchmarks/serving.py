"""Throughput, latency, processor time and memory of a server under load from several clients on loopback.

    python benchmarks/serving.py [--clients 1 4 16 64] [--seconds 10] [--servers vidseg fastapi triton] [--json]

Each row is a new server process and clients that send one video after the other; every answer is compared with that of
`TrainedModel.predict`. "vidseg" is `vidseg serve`, "unbatched" the same with batches of one clip, "fastapi" a plain
FastAPI handler that calls `predict` in its thread pool, "triton" a Triton server (`.ci/triton` installs it) with the
repository of `vidseg export --to triton`, whose Python model runs the network in ONNX Runtime; "onnx" is `vidseg serve`
with the same ONNX file. "cpu" is processor time of the server and its child processes per second, "cpu ms" per answer,
"MB" their resident memory at the end. Exit status 1 if an answer is wrong or missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
import tyro
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import triton_server

import vidseg
from vidseg.export import export_model
from vidseg.models import InputSpec, create_model
from vidseg.serve import AsyncClient, ServerError
from vidseg.serve.running import RunningServer

TOLERANCE = 1e-3  # of probabilities
Kind = Literal["vidseg", "unbatched", "fastapi", "onnx", "triton"]


@dataclass
class Options:
    """Measure a server under load."""

    clients: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of clients."""
    seconds: float = 10.0
    """Duration of a row in seconds."""
    servers: tuple[Kind, ...] = ("vidseg", "unbatched", "fastapi", "onnx", "triton")
    """Servers to measure; "triton" is left out where it is not installed."""
    network: str = "r3d_18"
    """Name of a recognition network."""
    width: float = 0.25
    """Width factor of the network."""
    size: int = 64
    """Height and width of the clips in pixels."""
    frames: int = 8
    """Frames of a clip."""
    video_frames: int = 16
    """Frames of the video that clients send, 128x96 pixels."""
    threads: int = 1
    """Threads of a forward pass."""
    workers: int = 8
    """Requests that `vidseg serve` computes at the same time."""
    json: bool = False
    """Print one JSON object instead of a table."""
    child: str = ""
    """Checkpoint that the plain FastAPI handler serves; for internal use."""


@dataclass(frozen=True)
class Row:
    """One measurement."""

    server: str
    clients: int
    answers: int
    wrong: int
    refused: int
    per_second: float
    p50: float
    p95: float
    p99: float
    cpu: float
    cpu_ms: float
    megabytes: float


def write_model(folder: Path, options: Options) -> None:
    """Write the checkpoint model.pth with random weights."""
    torch.manual_seed(0)
    names = [f"class_{number}" for number in range(10)]
    spec = InputSpec(frames=options.frames, interval=1, size=options.size)
    model = create_model(options.network, num_classes=len(names), width=options.width)
    record = {
        "task": "recognition", "network": options.network, "network_options": {"width": options.width},
        "input": spec.as_dict(), "classes": names, "division": "", "validation_videos": [], "data": {}, "dataset": "",
        "options": {},
    }  # fmt: skip
    torch.save({"state_dict": model.state_dict(), "record": record, "epoch": 1}, folder / "model.pth")


def write_repository(models: Path, options: Options) -> None:
    """Write the model repository of the checkpoint, with the same workers and threads as the other servers have."""
    export_model(vidseg.load_trained(models / "model.pth"), models / "triton", to="triton")
    with (models / "triton" / python_model(models) / "config.pbtxt").open("a") as file:
        for name, value in (("workers", options.workers), ("compute_threads", options.threads)):
            file.write(f'parameters {{ key: "{name}" value: {{ string_value: "{value}" }} }}\n')


def python_model(models: Path) -> str:
    """Name of the model in the repository that takes videos."""
    return next(models.glob("triton/*_video")).name


def write_video(path: Path, frames: int) -> Path:
    """Write a video of moving gradients."""
    y, x = np.mgrid[0:96, 0:128]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(frames):
            picture = np.stack([x * 2 % 256, y * 2 % 256, (x + y + 9 * number) % 256], axis=-1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def serve_plainly(options: Options) -> int:
    """Serve a checkpoint with a handler that calls `predict`."""
    torch.set_num_threads(options.threads)
    trained = vidseg.load_trained(options.child)
    app = FastAPI()

    @app.post("/v1/models/model/predict")
    async def predict(request: Request) -> dict[str, object]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "upload"
            path.write_bytes(await request.body())
            found = (await run_in_threadpool(trained.predict, path, threads=1)).videos[0]
        pairs = zip(found.classes, found.probabilities, strict=True)
        return {"classes": [{"label": name, "probability": share} for name, share in pairs]}

    server = RunningServer(app)
    print(server.url, flush=True)
    server.run()
    return 0


@contextlib.contextmanager
def started(kind: Kind, models: Path, store: Path, options: Options) -> Iterator[tuple[str, int]]:
    """Start a server; yields its address and process."""
    if kind == "triton":
        with triton_server.running_triton([models / "triton"], [python_model(models)], store / "log") as found:
            yield found
        return
    checkpoint = next(models.glob("triton/*/1/model.onnx")) if kind == "onnx" else models / "model.pth"
    if kind == "fastapi":
        words = [str(Path(__file__)), "--child", str(checkpoint), "--threads", str(options.threads)]
    else:
        words = ["-m", "vidseg.cli.main", "serve", f"model={checkpoint}", "--port", "0", "--store", str(store)]
        words += ["--queue", "1000", "--workers", str(options.workers), "--compute-threads", str(options.threads)]
        words += ["--batch-size", "1"] if kind == "unbatched" else []
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip().rstrip("/"), process.pid
    finally:
        process.terminate()
        process.wait()


def usage(process: int) -> tuple[float, float]:
    """Processor seconds and resident megabytes of a process and its children."""
    rows = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            rows[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
    family = {process}
    while found := {number for number, row in rows.items() if int(row[1]) in family} - family:
        family |= found
    kept = [rows[number] for number in family]
    seconds = sum(int(row[11]) + int(row[12]) for row in kept) / os.sysconf("SC_CLK_TCK")
    return seconds, sum(int(row[21]) for row in kept) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def load(
    client: AsyncClient, model: str, body: bytes, expected: dict[str, float], clients: int, seconds: float
) -> dict[str, object]:
    """Send videos from several clients; returns the times of the answers, and the numbers of wrong and refused ones."""
    times: list[float] = []
    wrong = refused = 0
    async with client:
        await client.predict(body, model=model)  # warm
        end = time.perf_counter() + seconds

        async def send() -> None:
            nonlocal wrong, refused
            while time.perf_counter() < end:
                begin = time.perf_counter()
                try:
                    answer = await client.predict(body, model=model)
                except ServerError as error:
                    if error.status != 503:
                        raise
                    refused += 1
                    await asyncio.sleep(1.0)
                    continue
                times.append(time.perf_counter() - begin)
                found = {row["label"]: row["probability"] for row in answer.get("classes", [])}
                same = found.keys() == expected.keys()
                wrong += not (same and all(abs(found[name] - expected[name]) < TOLERANCE for name in found))

        begin = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(clients)))
        lasted = time.perf_counter() - begin
    return {"times": times, "wrong": wrong, "refused": refused, "seconds": lasted}


def measure(kind: Kind, clients: int, models: Path, body: bytes, expected: dict[str, float], options: Options) -> Row:
    """Measure one row."""
    name = python_model(models) if kind == "triton" else "model"
    with tempfile.TemporaryDirectory(prefix="vidseg-") as store, started(kind, models, Path(store), options) as server:
        url, process = server
        client = AsyncClient(url, patience=0.0, triton=kind == "triton")
        before, _ = usage(process)
        begin = time.perf_counter()
        found = asyncio.run(load(client, name, body, expected, clients, options.seconds))
        after, megabytes = usage(process)
        spent = time.perf_counter() - begin
    times = sorted(found["times"])
    share = [1000 * times[min(len(times) - 1, int(part * len(times)))] for part in (0.5, 0.95, 0.99)]
    cpu_ms = 1000 * (after - before) / max(1, len(times))
    counts = (len(times), found["wrong"], found["refused"])
    return Row(
        kind, clients, *counts, len(times) / found["seconds"], *share, (after - before) / spent, cpu_ms, megabytes
    )


def main() -> int:
    """Run the benchmark."""
    options = tyro.cli(Options)
    if options.child:
        return serve_plainly(options)
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory(prefix="vidseg-") as name:
        folder = Path(name)
        write_model(folder, options)
        video = write_video(folder / "video.mp4", options.video_frames)
        truth = vidseg.load_trained(folder / "model.pth").predict(video, threads=1).videos[0]
        expected = dict(zip(truth.classes, truth.probabilities, strict=True))
        body = video.read_bytes()
        servers = list(options.servers)
        if "triton" in servers and not triton_server.SERVER.is_file():
            print(f"triton: left out, {triton_server.MISSING}", file=sys.stderr)
            servers.remove("triton")
        if {"onnx", "triton"} & set(servers):
            write_repository(folder, options)
        for kind in servers:
            for clients in options.clients:
                rows.append(measure(kind, clients, folder, body, expected, options))
                if not options.json:
                    print_row(rows[-1], options, first=len(rows) == 1)
    if options.json:
        print(json.dumps({"options": asdict(options), "rows": [asdict(row) for row in rows]}))
    return int(any(row.wrong or not row.answers for row in rows))


def print_row(row: Row, options: Options, *, first: bool) -> None:
    """Print a line of the table."""
    if first:
        print(
            f"{options.network}, width {options.width}, {options.frames} frames of {options.size} pixels, video of "
            f"{options.video_frames} frames, {options.seconds:g} s a row, {options.threads} threads, cpu, "
            f"serving.py of vidseg {vidseg.__version__}"
        )
        print("server     clients  answers  wrong  refused  answers/s  p50 ms  p95 ms  p99 ms   cpu  cpu ms    MB")
    print(
        f"{row.server:9}  {row.clients:7}  {row.answers:7}  {row.wrong:5}  {row.refused:7}  {row.per_second:9.1f}  "
        f"{row.p50:6.0f}  {row.p95:6.0f}  {row.p99:6.0f}  {row.cpu:4.2f}  {row.cpu_ms:6.1f}  {row.megabytes:4.0f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
